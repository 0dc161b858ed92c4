package measure

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable writes what a person reads: for each scenario every row's figures and ratios to its base, what each process on
// the path used, and how the rows named in compared stand to every other row.
func (r *Report) WriteTable(out io.Writer, compared ...string) error {
	_, _ = fmt.Fprintf(out, "%s\n%s\n%s, %d rounds of %g s; medians, and ratios with their smallest and largest round\n",
		r.Machine, strings.Join(r.Versions, ", "), r.Began.Format(time.RFC3339), r.Rounds, r.Seconds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, sc := range r.Scenarios {
		_, _ = fmt.Fprintf(w, "\n%s (%s)\n", strings.ToUpper(sc.Title), sc.Name)
		r.writeScenario(w, sc)
	}
	_, _ = fmt.Fprintf(w, "\nEACH PROCESS ON THE PATH\nSCENARIO\tROW\tCPU\tPER\tPEAK RSS\n")
	for _, sc := range r.Scenarios {
		r.writeCosts(w, sc)
	}
	for _, row := range compared {
		_, _ = fmt.Fprintf(w, "\n%s, RELATIVE TO OTHERS\n", strings.ToUpper(row))
		r.writeCompared(w, row)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if row.Absent != "" {
			_, _ = fmt.Fprintf(out, "\n%s was not measured: %s\n", row.Name, oneLine(row.Absent))
		}
	}
	for _, n := range r.Notes {
		if _, err := fmt.Fprintf(out, "\n%s\n", n); err != nil {
			return err
		}
	}
	return nil
}

func (r *Report) writeScenario(w io.Writer, sc Scenario) {
	head := []string{"ROW"}
	for _, c := range sc.Columns {
		head = append(head, c.Title)
		if c.Ratio {
			head = append(head, "× BASE")
		}
	}
	_, _ = fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, row := range r.Rows {
		if s := r.Of(sc.Name, row.Name); s != nil {
			_, _ = fmt.Fprintln(w, s.line(sc, row))
		}
	}
}

func (s *Summary) line(sc Scenario, row Row) string {
	if s.Rounds == 0 {
		return s.Row + "\tnot measured: " + short(cmp.Or(s.Problem, "no round"))
	}
	cells := []string{s.Row}
	for _, c := range sc.Columns {
		f, ok := s.Figures[c.Unit]
		cells = append(cells, format(f.Median, ok))
		if c.Ratio {
			cells = append(cells, ratio(s.Ratios[row.Base], c.Unit))
		}
	}
	if s.Problem != "" { // of some rounds
		cells = append(cells, fmt.Sprintf("only %d rounds: %s", s.Rounds, short(s.Problem)))
	}
	return strings.Join(cells, "\t")
}

// writeCosts has a line for each row with more than one process: one's own are in the scenario's table.
func (r *Report) writeCosts(w io.Writer, sc Scenario) {
	for _, row := range r.Rows {
		s := r.Of(sc.Name, row.Name)
		if s == nil || len(s.CPUOf) < 2 {
			continue
		}
		var cpu, rss []string
		for _, name := range sortedKeys(s.CPUOf) {
			cpu = append(cpu, name+" "+format(s.CPUOf[name].Median, true))
			rss = append(rss, fmt.Sprintf("%s %.0f MiB", name, float64(s.PeakRSS[name])/(1<<20)))
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", sc.Name, row.Name, strings.Join(cpu, ", "), sc.Per, strings.Join(rss, ", "))
	}
}

// writeCompared has a line for each scenario and figure with a ratio, and a column for each other row.
func (r *Report) writeCompared(w io.Writer, name string) {
	head := []string{"SCENARIO", "FIGURE"}
	for _, other := range r.Rows {
		if other.Name != name && other.Absent == "" {
			head = append(head, "÷ "+strings.ToUpper(other.Name))
		}
	}
	_, _ = fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, sc := range r.Scenarios {
		s := r.Of(sc.Name, name)
		if s == nil || s.Rounds == 0 {
			continue
		}
		for _, c := range sc.Columns {
			if !c.Ratio {
				continue
			}
			cells := []string{sc.Name, c.Title}
			for _, other := range r.Rows {
				if other.Name != name && other.Absent == "" {
					cells = append(cells, ratio(s.Ratios[other.Name], c.Unit))
				}
			}
			_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
		}
	}
}

func ratio(of map[Unit]Spread, u Unit) string {
	s, ok := of[u]
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max)
}

// format gives three digits that mean something.
func format(v float64, ok bool) string {
	switch {
	case !ok:
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.4f", v)
}

// short is what a table has room for; all of it is in the JSON.
func short(s string) string {
	const room = 100
	line := []rune(oneLine(s))
	if len(line) > room {
		line = append(line[:room], '…')
	}
	return string(line)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
