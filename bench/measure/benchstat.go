package measure

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// WriteBenchstat writes every measurement that counts as a line of Go's benchmark format, one for each round, so that
// benchstat compares rows (-col /row) or runs. What could not be measured is a comment.
func (r *Report) WriteBenchstat(out io.Writer) error {
	_, err := fmt.Fprintf(out, "goos: linux\npkg: github.com/warren-mesh/warren/bench\nmachine: %s\npeers: %s\n",
		r.Machine, strings.Join(r.Versions, ", "))
	if err != nil {
		return err
	}
	for _, m := range r.Measurements {
		if m.Problem != "" {
			continue
		}
		line := fmt.Sprintf("BenchmarkLab/scenario=%s/row=%s %d", m.Scenario, strings.ReplaceAll(m.Row, " ", "-"), max(m.Count, 1))
		for _, u := range slices.Sorted(maps.Keys(m.Figures)) {
			line += fmt.Sprintf(" %.6g %s", m.Figures[u], u)
		}
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	for _, reason := range r.Unmeasured() {
		if _, err := fmt.Fprintf(out, "# not measured: %s\n", oneLine(reason)); err != nil {
			return err
		}
	}
	return nil
}
