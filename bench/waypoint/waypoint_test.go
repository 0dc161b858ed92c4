package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, "../..") }

// TestSmoke: the whole bench in its smallest form. Figures are not looked at but for what must hold on any machine: every
// row was measured, nothing failed, and who is on the path used CPU and memory.
func TestSmoke(t *testing.T) {
	o := options{rounds: 1, seconds: 1, connections: []int{4}, rate: 200, bin: labtest.BinDir(), output: "table"}
	o.envoy = envoyHere()
	r, err := run(t.Context(), o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Summaries) != 10 {
		t.Fatalf("%d summaries, want one for each of 5 rows and 2 loads", len(r.Summaries))
	}
	for _, s := range r.Summaries {
		envoy := strings.HasPrefix(s.Row, "envoy")
		if envoy && o.envoy == "none" {
			if s.Rounds != 0 || s.Problem == "" {
				t.Errorf("%s, %s: %+v, want no figure and a reason", s.Load, s.Row, s)
			}
			continue
		}
		if s.Rounds != 1 || s.Problem != "" || s.PerSecond.Median < 50 || s.P99.Median < s.P50.Median || s.P50.Median <= 0 {
			t.Errorf("%s, %s: %+v", s.Load, s.Row, s)
			continue
		}
		for _, p := range s.proxies {
			if s.PeakRSS[p.name] < 1<<20 {
				t.Errorf("%s, %s: %s has a peak of %d bytes", s.Load, s.Row, p.name, s.PeakRSS[p.name])
			}
		}
		if len(s.proxies) > 0 && s.CPU.Median <= 0 {
			t.Errorf("%s, %s: no CPU was used", s.Load, s.Row)
		}
	}
	var table bytes.Buffer
	if err := r.writeTable(&table); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table.String())
}

// envoyHere is Envoy if the machine has one: a test installs nothing.
func envoyHere() string {
	if path := os.Getenv("ENVOY"); path != "" {
		return path
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	return "none"
}

// TestSummaryPairsRounds: a ratio is to the same round's direct, a round with a problem counts for nothing, and a row that
// never counted prints its reason and no figure.
func TestSummaryPairsRounds(t *testing.T) {
	l := load{Connections: 4}
	row4 := func(name string, round int, rps float64, problem string) measurement {
		return measurement{Round: round, Load: l.String(), Row: name, Requests: 100, PerSecond: rps, P50: 1e6 / rps, P99: 2e6 / rps,
			Problem: problem, Used: map[string]usage{"p": {CPUSeconds: 0.05, PeakRSS: 1 << 20}}}
	}
	r := report{Measurements: []measurement{
		row4(direct, 1, 1000, ""), row4("x", 1, 500, ""),
		row4(direct, 2, 2000, ""), row4("x", 2, 500, ""),
		row4(direct, 3, 1000, "a reset"), row4("x", 3, 900, ""),
		row4(direct, 4, 1000, ""), row4("x", 4, 1, "a timeout"),
	}}
	rows := []*row{{name: direct}, {name: "x", proxies: []proxy{{"p", 1}}}, {name: "y", absent: errors.New("there is none")}}
	r.summarize(rows, []load{l})
	x := r.Summaries[1]
	if x.Rounds != 3 || x.PerSecondRatio != (spread{0.375, 0.25, 0.5}) || x.PerSecond != (spread{500, 500, 900}) {
		t.Errorf("%+v", x)
	}
	if x.CPUOf["p"] != 0.5 || x.PeakRSS["p"] != 1<<20 {
		t.Errorf("0.05 s for 100 requests: %v, %v", x.CPUOf, x.PeakRSS)
	}
	var table bytes.Buffer
	_ = r.writeTable(&table)
	for _, want := range []string{"only 3 rounds: a timeout", "not measured: there is none", "0.38 (0.25–0.50)"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("want %q in\n%s", want, table.String())
		}
	}
}

// TestRateCountsFromWhenARequestWasDue: a server that stops for 300 ms delays, with one connection, all that were due in
// the meantime. Their latencies say so; a loop that waits for answers would have seen one slow request.
func TestRateCountsFromWhenARequestWasDue(t *testing.T) {
	const pause = 300 * time.Millisecond
	addr := stallingServer(t, 5, pause)
	c, err := target{"/proc/thread-self/ns/net", addr}.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.conn.Close()
	out := load{Connections: 1, Rate: 100}.run([]*client{c}, time.Second)
	if out.err != nil || len(out.latencies) != 100 {
		t.Fatalf("%d answers, %v", len(out.latencies), out.err)
	}
	slow := 0
	for _, d := range out.latencies {
		if d > pause/3 {
			slow++
		}
	}
	if slow < 15 || out.percentile(0.99) < pause*9/10 {
		t.Errorf("%d requests waited long and p99 is %s, want about 20 and %s", slow, out.percentile(0.99), pause)
	}
}
