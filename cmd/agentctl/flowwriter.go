package main

import (
	"fmt"

	"github.com/warren-mesh/warren/api/adminv1"
)

// flowWriter prints flows in one format. A table that ends is aligned to its content; one that follows starts with fixed
// columns. Either has the columns of requests once there is one.
type flowWriter struct {
	*app
	format   string
	follow   bool
	requests bool // the table has their columns
	flows    []*adminv1.Flow
	stream   columns
}

// flowWriter returns a writer; requests says that nothing else will come.
func (a *app) flowWriter(format string, follow, requests bool) *flowWriter {
	return &flowWriter{app: a, format: format, follow: follow, requests: requests}
}

func (w *flowWriter) tabular() bool { return w.format == formatTable || w.format == formatWide }

func (w *flowWriter) wide() bool { return w.format == formatWide }

func (w *flowWriter) begin() error {
	if !w.tabular() || !w.follow {
		return nil
	}
	header, widths := flowHeader(w.wide(), w.requests)
	w.stream = columns{app: w.app, widths: widths}
	return w.stream.write(cells(header...))
}

func (w *flowWriter) flow(f *adminv1.Flow) error {
	if f.Http != nil && !w.requests {
		w.requests = true
		if err := w.begin(); err != nil {
			return err
		}
	}
	switch {
	case w.format == formatCompact:
		w.flows = append(w.flows[:0], f)
		return w.writeAll([]byte(w.flowLine(f) + "\n"))
	case !w.tabular():
		w.flows = append(w.flows[:0], f)
		return w.emitOne(w.format, f)
	case w.follow:
		return w.stream.write(w.flowRow(f, w.wide(), w.requests))
	}
	w.flows = append(w.flows, f)
	return nil
}

func (w *flowWriter) end() error {
	switch {
	case w.follow:
		return nil
	case len(w.flows) == 0:
		fmt.Fprintln(w.stderr, "No flows match. See whether the pods are enrolled: agentctl status pods")
		return nil
	case w.tabular():
		header, _ := flowHeader(w.wide(), w.requests)
		t := table{header: header}
		for _, f := range w.flows {
			t.add(w.flowRow(f, w.wide(), w.requests)...)
		}
		return t.write(w.app, "")
	}
	return nil
}
