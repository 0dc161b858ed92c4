package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/bench/scene"
	"github.com/warren-mesh/warren/internal/labtest"
)

// The test's binary is also what serves in pods.
func TestMain(m *testing.M) {
	if handled, err := scene.ServerMain(context.Background(), os.Args[1:]); handled {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	labtest.Main(m, "../..")
}

// TestSmoke: the whole bench in its smallest form. Figures are not looked at but for what must hold on any machine: every
// row was measured, nothing failed, and who is on the path used CPU and memory.
func TestSmoke(t *testing.T) {
	o := options{rounds: 1, seconds: 0.5, connections: []int{4}, rate: 100, protocols: []string{"http", "grpc"}, bin: labtest.BinDir(), output: "table"}
	o.envoy = envoyHere()
	r, err := run(t.Context(), o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Summaries) != 20 {
		t.Fatalf("%d summaries, want one for each of 5 rows and 4 scenarios", len(r.Summaries))
	}
	for _, s := range r.Summaries {
		if strings.HasPrefix(s.Row, "envoy") && o.envoy == "none" {
			if s.Rounds != 0 || s.Problem == "" {
				t.Errorf("%s, %s: %+v, want no figure and a reason", s.Scenario, s.Row, s)
			}
			continue
		}
		if s.Rounds != 1 || s.Problem != "" || s.Figures["req/s"].Median < 20 || s.Figures["p99-us"].Median < s.Figures["p50-us"].Median {
			t.Errorf("%s, %s: %+v", s.Scenario, s.Row, s)
			continue
		}
		for name, bytes := range s.PeakRSS {
			if bytes < 1<<20 {
				t.Errorf("%s, %s: %s has a peak of %d bytes", s.Scenario, s.Row, name, bytes)
			}
		}
		if s.Row != direct && s.Figures["cpu-s"].Median <= 0 {
			t.Errorf("%s, %s: no CPU was used", s.Scenario, s.Row)
		}
	}
	var table bytes.Buffer
	if err := r.WriteTable(&table); err != nil {
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
