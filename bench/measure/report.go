package measure

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/warren-mesh/warren/bench/proc"
)

// Unit names a figure, as benchstat and the JSON have it.
type Unit string

// Column is a figure of a scenario as it is shown.
type Column struct {
	Unit  Unit
	Title string
	Ratio bool // show its ratio to the row's base too
	Plot  bool // draw it
}

// Scenario is one thing that every row is measured in.
type Scenario struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Per     string   `json:"per"`              // what CPU is counted per: the unit of Measurement.Amount
	Rounds  int      `json:"rounds,omitempty"` // at most so many, if it takes long; 0 is all
	Columns []Column `json:"-"`                // the first one is what rows are compared by
}

// Row is one way that is measured.
type Row struct {
	Name   string `json:"name"`
	Base   string `json:"base,omitempty"`   // the row that its ratios are to
	Absent string `json:"absent,omitempty"` // why it cannot be measured at all
}

// Measurement is one scenario on one row in one round.
type Measurement struct {
	Round    int                   `json:"round"`
	Scenario string                `json:"scenario"`
	Row      string                `json:"row"`
	Problem  string                `json:"problem,omitempty"` // why it does not count
	Count    int64                 `json:"count"`             // of what was done
	Amount   float64               `json:"amount"`            // the same in the scenario's Per
	Seconds  float64               `json:"seconds"`
	Figures  map[Unit]float64      `json:"figures,omitempty"`
	Used     map[string]proc.Usage `json:"used,omitempty"` // by the processes on the path
}

// Summary is what all rounds of one scenario on one row come to.
type Summary struct {
	Scenario string `json:"scenario"`
	Row      string `json:"row"`
	Rounds   int    `json:"rounds"`            // that count
	Problem  string `json:"problem,omitempty"` // why others, or all, do not

	Figures map[Unit]Spread `json:"figures,omitempty"`
	// Ratios are to every other row, each taken within a round.
	Ratios map[string]map[Unit]Spread `json:"ratios,omitempty"`
	// CPUOf and PeakRSS are of each process on the path: CPU seconds per Scenario.Per, bytes.
	CPUOf   map[string]Spread `json:"cpuSecondsOf,omitempty"`
	PeakRSS map[string]int64  `json:"peakRSSBytesOf,omitempty"`
}

// Report is a run.
type Report struct {
	Machine      string        `json:"machine"`
	Versions     []string      `json:"versions"` // of what is measured
	Began        time.Time     `json:"began"`
	Rounds       int           `json:"rounds"`
	Seconds      float64       `json:"seconds"` // of one measurement
	Notes        []string      `json:"notes,omitempty"`
	Scenarios    []Scenario    `json:"scenarios"`
	Rows         []Row         `json:"rows"`
	Summaries    []Summary     `json:"summaries"`
	Measurements []Measurement `json:"measurements"`
}

// Run measures every scenario on every row that can be, round by round, and sums up. Rows follow upon one another in every
// scenario, in another order each round, so that what else the machine does hits all alike.
func (r *Report) Run(ctx context.Context, measure func(ctx context.Context, scenario, row int) Measurement, done func(round int)) error {
	for round := range r.Rounds {
		for s, sc := range r.Scenarios {
			if round >= r.roundsOf(sc) {
				continue
			}
			for _, row := range order(len(r.Rows), round) {
				if r.Rows[row].Absent != "" {
					continue
				}
				m := measure(ctx, s, row)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				m.Round, m.Scenario, m.Row = round+1, r.Scenarios[s].Name, r.Rows[row].Name
				r.Measurements = append(r.Measurements, m)
			}
		}
		done(round + 1)
	}
	r.Summarize()
	return nil
}

func (r *Report) roundsOf(s Scenario) int {
	if s.Rounds == 0 {
		return r.Rounds
	}
	return min(s.Rounds, r.Rounds)
}

// order begins each round with another row, and goes backwards in every second one.
func order(n, round int) []int {
	out, step := make([]int, n), 1
	if round%2 == 1 {
		step = n - 1
	}
	for i := range out {
		out[i] = (round + i*step) % n
	}
	return out
}

// Summarize makes the summaries of the measurements.
func (r *Report) Summarize() {
	r.Summaries = nil
	for _, sc := range r.Scenarios {
		counted := map[string]map[int]Measurement{}
		first := len(r.Summaries)
		for _, row := range r.Rows {
			s := Summary{Scenario: sc.Name, Row: row.Name, Problem: row.Absent}
			counted[row.Name] = s.take(r.Measurements)
			r.Summaries = append(r.Summaries, s)
		}
		for i := range r.Summaries[first:] {
			s := &r.Summaries[first+i]
			s.compare(counted)
		}
	}
}

// take sums up what counts, and returns it by round.
func (s *Summary) take(all []Measurement) map[int]Measurement {
	counted := map[int]Measurement{}
	figures, cpu := map[Unit][]float64{}, map[string][]float64{}
	peaks := map[string]int64{}
	for _, m := range all {
		switch {
		case m.Scenario != s.Scenario || m.Row != s.Row:
			continue
		case m.Problem != "":
			s.Problem = m.Problem
			continue
		}
		counted[m.Round] = m
		for u, v := range m.Figures {
			figures[u] = append(figures[u], v)
		}
		for name, u := range m.Used {
			cpu[name] = append(cpu[name], u.CPU()/m.Amount)
			peaks[name] = max(peaks[name], u.PeakRSS)
		}
	}
	s.Rounds = len(counted)
	s.Figures, s.CPUOf, s.PeakRSS = spreads(figures), spreads(cpu), peaks
	return counted
}

func spreads[K comparable](values map[K][]float64) map[K]Spread {
	out := map[K]Spread{}
	for k, v := range values {
		out[k], _ = SpreadOf(v)
	}
	return out
}

// compare takes the ratios to every other row in the rounds that both have.
func (s *Summary) compare(counted map[string]map[int]Measurement) {
	s.Ratios = map[string]map[Unit]Spread{}
	for other, base := range counted {
		ratios := map[Unit][]float64{}
		for round, m := range counted[s.Row] {
			for u, v := range m.Figures {
				if b := base[round].Figures[u]; b > 0 {
					ratios[u] = append(ratios[u], v/b)
				}
			}
		}
		if other != s.Row && len(ratios) > 0 {
			s.Ratios[other] = spreads(ratios)
		}
	}
}

// Of is the summary of a scenario on a row.
func (r *Report) Of(scenario, row string) *Summary {
	i := slices.IndexFunc(r.Summaries, func(s Summary) bool { return s.Scenario == scenario && s.Row == row })
	if i < 0 {
		return nil
	}
	return &r.Summaries[i]
}

// Unmeasured are reasons, one for each row and scenario that not every round measured.
func (r *Report) Unmeasured() (out []string) {
	for _, sc := range r.Scenarios {
		for _, row := range r.Rows {
			if s := r.Of(sc.Name, row.Name); s == nil || s.Rounds < r.roundsOf(sc) {
				out = append(out, sc.Name+", "+row.Name+": "+cmp.Or(s.reason(), "no round"))
			}
		}
	}
	return out
}

func (s *Summary) reason() string {
	if s == nil {
		return ""
	}
	return s.Problem
}

// Formats are what Write knows.
func Formats() []string { return []string{"table", "json", "benchstat"} }

// Write writes the report in one of the Formats; compared are for the table.
func (r *Report) Write(format string, out io.Writer, compared ...string) error {
	switch format {
	case "json":
		return r.WriteJSON(out)
	case "benchstat":
		return r.WriteBenchstat(out)
	}
	return r.WriteTable(out, compared...)
}

// WriteJSON writes everything.
func (r *Report) WriteJSON(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
