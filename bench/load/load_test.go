package load_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/bench/load"
)

// stallingServer pauses once, at its nth request.
func stallingServer(t *testing.T, nth int64, pause time.Duration) (address string) {
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == nth {
			time.Sleep(pause)
		}
		w.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// TestRateCountsFromWhenARequestWasDue: a server that stops for 300 ms delays, with one connection, all that were due in
// the meantime. Their latencies say so; a loop that waits for answers would have seen one slow request.
func TestRateCountsFromWhenARequestWasDue(t *testing.T) {
	const pause = 300 * time.Millisecond
	conn, err := load.Target{Address: stallingServer(t, 5, pause)}.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := load.NewHTTP(conn, "test")
	asker := func() error { return c.Get("/", "", io.Discard) }
	out := load.Load{Connections: 1, Rate: 100}.Run([]load.Asker{asker}, time.Second)
	if out.Err != nil || out.Latencies.Count() != 100 {
		t.Fatalf("%d answers, %v", out.Latencies.Count(), out.Err)
	}
	if p85, p99 := out.Latencies.Percentile(0.85), out.Latencies.Percentile(0.99); p85 < pause/3 || p99 < pause*9/10 {
		t.Errorf("p85 is %s and p99 is %s, want about 100 ms and %s", p85, p99, pause)
	}
}

// TestFailureEndsAConnectionOnly: of two closed loops one fails. Both are in the outcome.
func TestFailureEndsAConnectionOnly(t *testing.T) {
	n := 0
	good := func() error { time.Sleep(time.Millisecond); return nil }
	bad := func() error {
		if n++; n > 3 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	out := load.Load{Connections: 2}.Run([]load.Asker{good, bad}, 50*time.Millisecond)
	if out.Failed != 1 || out.Err != io.ErrUnexpectedEOF || out.Latencies.Count() < 5 {
		t.Errorf("%d failed, %v, %d answers", out.Failed, out.Err, out.Latencies.Count())
	}
}
