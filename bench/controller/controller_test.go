package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/manifest"
)

func compiled(t testing.TB, w *world) *compile.Output {
	t.Helper()
	out, err := compile.Compile(objects(t, w), compile.Options{TrustDomain: "cluster.local"})
	if err != nil || len(out.Problems) > 0 {
		t.Fatalf("%v, problems %v", err, out.Problems)
	}
	return out
}

func objects(t testing.TB, w *world) []*manifest.Object {
	t.Helper()
	var all []*manifest.Object
	files, err := filepath.Glob(filepath.Join(w.dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		objects, ignored, err := manifest.Parse(f, text)
		if err != nil || len(ignored) > 0 {
			t.Fatalf("%v, ignored %v", err, ignored)
		}
		all = append(all, objects...)
	}
	return all
}

// TestTheWorldIsWhatTheReportSays, and every change is one.
func TestTheWorldIsWhatTheReportSays(t *testing.T) {
	w, err := newWorld(t.TempDir(), size{pods: 200, nodes: 10, namespaces: 4})
	if err != nil {
		t.Fatal(err)
	}
	count := func(out *compile.Output, prefix string) (n int) {
		for key := range out.Resources {
			if strings.HasPrefix(key, prefix) {
				n++
			}
		}
		return n
	}
	out := compiled(t, w)
	if p, s, a := count(out, "workload/"), count(out, "service/"), count(out, "policy/"); p != 200 || s != 40 || a != 40 {
		t.Errorf("%d workloads, %d services, %d policies", p, s, a)
	}
	for _, svc := range out.Decoded.Mesh.Services() {
		if len(svc.Endpoints) != 5 {
			t.Errorf("%s has %d endpoints", svc.FullName(), len(svc.Endpoints))
		}
	}
	for _, wl := range out.Decoded.Mesh.Workloads() {
		if n := len(wl.Policies); !wl.Enrolled || n < 2 || n > 4 || wl.Zone == "" {
			t.Errorf("%s: %+v", wl.FullName(), wl)
		}
	}
	for _, c := range changes() {
		for n := range 3 {
			if err := c.make(w, n); err != nil {
				t.Fatal(err)
			}
			next := compiled(t, w)
			changed := 0
			for key, r := range next.Resources {
				if r.String() != out.Resources[key].String() {
					changed++
				}
			}
			if most := map[string]int{"a policy": 1, "a pod's readiness": 1}[c.name]; changed == 0 || most > 0 && changed > most {
				t.Errorf("%s, the %d. time: %d resources changed", c.name, n+1, changed)
			}
			out = next
		}
	}
}

func TestPercentiles(t *testing.T) {
	var values []float64
	for i := range 100 {
		values = append(values, float64(100-i))
	}
	for p, want := range map[float64]float64{0.5: 50, 0.99: 99, 1: 100, 0: 1} {
		if got := percentile(values, p); got != want {
			t.Errorf("p%v is %v, want %v", 100*p, got, want)
		}
	}
	if got := percentile([]float64{7}, 0.99); got != 7 {
		t.Errorf("of one: %v", got)
	}
}

// BenchmarkCompile is what the controller does with 10,000 pods at its start, and when one policy has changed.
func BenchmarkCompile(b *testing.B) {
	w, err := newWorld(b.TempDir(), size{pods: 10_000, nodes: 1000, namespaces: 50})
	if err != nil {
		b.Fatal(err)
	}
	now, opts := objects(b, w), compile.Options{TrustDomain: "cluster.local"}
	before, err := compile.Compile(now, opts)
	if err != nil {
		b.Fatal(err)
	}
	if err := changes()[0].make(w, 1); err != nil {
		b.Fatal(err)
	}
	next := objects(b, w)
	b.Run("everything", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := compile.Compile(now, opts); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a change", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := before.Next(next, opts); err != nil {
				b.Fatal(err)
			}
		}
	})
}
