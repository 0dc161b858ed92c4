package measure

import (
	"bytes"
	"context"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/bench/proc"
)

var update = flag.Bool("update", false, "accept what is rendered now")

// TestPercentilesAreWithinABucket: exact below 128 ns, within 1/64 above, never more than the largest.
func TestPercentilesAreWithinABucket(t *testing.T) {
	var h, other Histogram
	var all []time.Duration
	for i := range 10_000 {
		d := time.Duration(math.Pow(1.0023, float64(i)))
		all = append(all, d)
		if i%2 == 0 {
			h.Add(d)
		} else {
			other.Add(d)
		}
	}
	h.Merge(&other)
	for _, p := range []float64{0, 0.001, 0.5, 0.9, 0.99, 0.999, 0.99999, 1} {
		want := all[max(int(math.Ceil(p*float64(len(all)))), 1)-1]
		got := h.Percentile(p)
		if got < want || float64(got) > float64(want)*(1+1.0/64) {
			t.Errorf("p%g is %d, want %d to 1/64 more", p*100, got, want)
		}
	}
	if h.Count() != 10_000 {
		t.Errorf("%d durations", h.Count())
	}
}

func TestHistogramEdges(t *testing.T) {
	var h Histogram
	if h.Percentile(0.5) != 0 {
		t.Error("an empty one has a percentile")
	}
	for _, d := range []time.Duration{-1, 0, math.MaxInt64} {
		h.Add(d)
	}
	if h.Percentile(0.5) != 0 || h.Percentile(1) != math.MaxInt64 {
		t.Errorf("%d, %d", h.Percentile(0.5), h.Percentile(1))
	}
	for b := range buckets {
		if got := bucket(upper(b)); got != b {
			t.Fatalf("the longest of bucket %d is in %d", b, got)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Spread
		ok     bool
	}{
		{nil, Spread{}, false},
		{[]float64{3}, Spread{3, 3, 3}, true},
		{[]float64{9, 1, 2}, Spread{2, 1, 9}, true},
		{[]float64{4, 1, 2, 9}, Spread{3, 1, 9}, true},
	} {
		if got, ok := SpreadOf(c.values); got != c.want || ok != c.ok {
			t.Errorf("%v: %v, %v", c.values, got, ok)
		}
	}
}

// TestOrderIsAnotherEachRound: every row is once first, and no round is like the one before.
func TestOrderIsAnotherEachRound(t *testing.T) {
	first := map[int]bool{}
	var last []int
	for round := range 8 {
		o := order(4, round)
		if sorted := slices.Sorted(slices.Values(o)); !slices.Equal(sorted, []int{0, 1, 2, 3}) || slices.Equal(o, last) {
			t.Errorf("round %d: %v after %v", round, o, last)
		}
		first[o[0]], last = true, o
	}
	if len(first) != 4 {
		t.Errorf("only %v were first", first)
	}
}

// sample is a report of rounds with and without problems.
func sample() *Report {
	m := func(row string, round int, rps float64, problem string) Measurement {
		return Measurement{
			Round: round, Scenario: "echo", Row: row, Count: 100, Amount: 0.1, Seconds: 1, Problem: problem,
			Figures: map[Unit]float64{"req/s": rps, "p50-us": 1e6 / rps},
			Used:    map[string]proc.Usage{"p": {UserSeconds: 0.03, SystemSeconds: 0.02, PeakRSS: 1 << 20}, "q": {UserSeconds: 0.01, PeakRSS: 3 << 20}},
		}
	}
	r := &Report{
		Machine: "2 × a CPU", Versions: []string{"peer 1.0"}, Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Rounds: 4, Seconds: 1,
		Notes: []string{"A note."}, Rows: []Row{{Name: "bare"}, {Name: "warren", Base: "bare"}, {Name: "<peer>", Base: "bare", Absent: "there is\nnone"}},
		Scenarios: []Scenario{{Name: "echo", Title: "there & back", Per: "1000 req", Columns: []Column{
			{Unit: "req/s", Title: "REQ/S", Ratio: true, Plot: true}, {Unit: "p50-us", Title: "P50 µs", Ratio: true}, {Unit: "absent", Title: "ABSENT"},
		}}},
		Measurements: []Measurement{
			m("bare", 1, 1000, ""), m("warren", 1, 500, ""), m("bare", 2, 2000, ""), m("warren", 2, 500, ""),
			m("bare", 3, 1000, "a reset"), m("warren", 3, 900, ""), m("bare", 4, 1000, ""), m("warren", 4, 1, "a timeout"),
		},
	}
	r.Summarize()
	return r
}

// TestRatiosPairRounds: a ratio is to the same round's base, a round with a problem counts for nothing.
func TestRatiosPairRounds(t *testing.T) {
	r := sample()
	s := r.Of("echo", "warren")
	if s.Rounds != 3 || s.Problem != "a timeout" || s.Figures["req/s"] != (Spread{500, 500, 900}) {
		t.Errorf("%+v", s)
	}
	if got := s.Ratios["bare"]["req/s"]; got != (Spread{0.375, 0.25, 0.5}) {
		t.Errorf("ratio %v", got)
	}
	if s.CPUOf["p"].Median != 0.5 || s.PeakRSS["p"] != 1<<20 {
		t.Errorf("0.05 s for 100 requests: %v, %v", s.CPUOf, s.PeakRSS)
	}
	if absent := r.Of("echo", "<peer>"); absent.Rounds != 0 || len(absent.Figures) != 0 || absent.Problem == "" {
		t.Errorf("%+v, want no figure and a reason", absent)
	}
	if missing := r.Unmeasured(); len(missing) != 3 {
		t.Errorf("%q, want one of each row", missing)
	}
}

func TestRunSkipsWhatIsAbsent(t *testing.T) {
	r := &Report{Rounds: 2, Rows: []Row{{Name: "a"}, {Name: "b", Absent: "no"}}, Scenarios: []Scenario{{Name: "s"}, {Name: "t"}}}
	err := r.Run(t.Context(), func(_ context.Context, _, row int) Measurement {
		if row != 0 {
			t.Errorf("row %d was measured", row)
		}
		return Measurement{Amount: 1, Figures: map[Unit]float64{"x": 1}}
	}, func(int) {})
	if err != nil || len(r.Measurements) != 4 || r.Of("t", "a").Rounds != 2 {
		t.Errorf("%v, %+v", err, r)
	}
}

// TestRendering compares what a person and a tool read with golden files.
func TestRendering(t *testing.T) {
	r := sample()
	for name, write := range map[string]func(*bytes.Buffer) error{
		"table.txt":     func(b *bytes.Buffer) error { return r.WriteTable(b, "warren") },
		"benchstat.txt": func(b *bytes.Buffer) error { return r.WriteBenchstat(b) },
		"echo.svg":      func(b *bytes.Buffer) error { return r.writePlot(b, r.Scenarios[0], r.Scenarios[0].Columns[0]) },
		"report.json":   func(b *bytes.Buffer) error { return r.WriteJSON(b) },
	} {
		var got bytes.Buffer
		if err := write(&got); err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %v; go test ./bench/measure -update accepts it:\n%s", name, err, got.String())
		}
	}
}

func TestPlotsHaveNamesOfFiles(t *testing.T) {
	names, err := sample().WritePlots(t.TempDir())
	if err != nil || len(names) != 1 || !strings.HasSuffix(names[0], "echo-req-per-s.svg") {
		t.Errorf("%q, %v", names, err)
	}
}
