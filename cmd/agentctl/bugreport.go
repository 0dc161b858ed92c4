package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/cluster"
)

// bugReportCommand collects what somebody who helps wants to see.
func (a *app) bugReportCommand() *cobra.Command {
	var name string
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "bug-report",
		Short: "Collect status, logs and events into one archive, without secrets",
		Long: `Collect into one .tar.gz what somebody who helps wants to see: versions, status, workloads, services, policies and
certificates' names as the mesh tells them; and of the cluster: Warren's objects and policies, its pods' logs and events,
and the nodes' versions. No Secret is read. Private keys, tokens and credentials in logs are replaced by a note; names,
addresses and identities are in it, so look before you publish it. What cannot be had is noted in errors.txt.`,
		Example: `  agentctl bug-report
  agentctl bug-report --file /tmp/report.tar.gz --since 24h`,
		Args: exactArgs(),
	}
	cmd.Flags().StringVar(&name, "file", "", "file to write (default warren-bug-report-TIME.tar.gz)")
	cmd.Flags().DurationVar(&since, "since", 3*time.Hour, "how far back logs go")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if name == "" {
			name = "warren-bug-report-" + a.now().UTC().Format("20060102-150405") + ".tar.gz"
		}
		return a.bugReport(cmd.Context(), name, since)
	}
	return cmd
}

func (a *app) bugReport(ctx context.Context, name string, since time.Duration) error {
	f, err := a.create(name)
	if err != nil {
		return &failure{text: fmt.Sprintf("write the report: %s", err), hint: "name another file with --file", err: err}
	}
	r := newReport(f, a.now())
	r.add("version.txt", fmt.Appendf(nil, "agentctl %s\n", a.version))
	a.reportMesh(ctx, r)
	a.reportCluster(ctx, r, since)
	err = r.close()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write the report %s: %w", name, err)
	}
	a.printf("wrote %s: %s, %s could not be had\nlook through it before you publish it: it has names and addresses\n",
		name, count(r.files, "file"), count(len(r.errors), "thing"))
	return nil
}

// reportMesh adds what the controller, or an agent, answers.
func (a *app) reportMesh(ctx context.Context, r *report) {
	addAnswer(ctx, a, r, "status", adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	addAnswer(ctx, a, r, "workloads", adminv1.AdminClient.Workloads, &adminv1.ListRequest{})
	addAnswer(ctx, a, r, "services", adminv1.AdminClient.Services, &adminv1.ListRequest{})
	addAnswer(ctx, a, r, "policies", adminv1.AdminClient.Policies, &adminv1.ListRequest{})
	addAnswer(ctx, a, r, "certs", adminv1.AdminClient.Certs, &adminv1.ListRequest{})
	addAnswer(ctx, a, r, "connections", adminv1.AdminClient.Connections, &adminv1.ListRequest{})
}

func addAnswer[Req any, Rep proto.Message](ctx context.Context, a *app, r *report, name string,
	method func(adminv1.AdminClient, context.Context, Req, ...grpc.CallOption) (Rep, error), req Req) {
	reply, err := ask(ctx, a, method, req)
	if err != nil {
		r.fail("mesh/"+name, err)
		return
	}
	raw, err := toJSON(reply)
	if err != nil {
		r.fail("mesh/"+name, err)
		return
	}
	r.add("mesh/"+name+".json", append(raw, '\n'))
}

func (a *app) reportCluster(ctx context.Context, r *report, since time.Duration) {
	if a.socket != "" || a.lab != "" {
		return
	}
	c, err := a.cluster()
	if err != nil {
		r.fail("cluster", err)
		return
	}
	c.Collect(ctx, since, func(name string, data []byte, err error) {
		if err != nil {
			r.fail("cluster/"+name, err)
			return
		}
		r.add("cluster/"+name, data)
	})
}

// report writes an archive; the first error of writing ends it.
type report struct {
	zip    *gzip.Writer
	tar    *tar.Writer
	now    time.Time
	files  int
	errors []string
	err    error
}

func newReport(w io.Writer, now time.Time) *report {
	zip := gzip.NewWriter(w)
	return &report{zip: zip, tar: tar.NewWriter(zip), now: now}
}

// add puts one file in, without what may be secret.
func (r *report) add(name string, data []byte) {
	if r.err != nil {
		return
	}
	data = cluster.Redact(data)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "warren-bug-report/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: r.now}
	if r.err = r.tar.WriteHeader(h); r.err == nil {
		_, r.err = r.tar.Write(data)
	}
	r.files++
}

func (r *report) fail(what string, err error) { r.errors = append(r.errors, what+": "+err.Error()) }

func (r *report) close() error {
	r.add("errors.txt", []byte(strings.Join(append(r.errors, ""), "\n")))
	if r.err != nil {
		return r.err
	}
	if err := r.tar.Close(); err != nil {
		return err
	}
	return r.zip.Close()
}
