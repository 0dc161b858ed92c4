package observe

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/ztunnel"
)

func record(t *testing.T, i int) ztunnel.Record {
	t.Helper()
	id, err := identity.New("cluster.local", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1000+int64(i), 0)
	return ztunnel.Record{
		ID: fmt.Sprintf("%032x", i), Reporter: ztunnel.Inbound, Verdict: ztunnel.Forwarded, Reason: ztunnel.ReasonClosed,
		Src:     ztunnel.Party{Addr: netip.MustParseAddrPort("10.0.0.1:40000"), ID: id, Workload: &mesh.Workload{Namespace: "shop", Name: "web"}},
		Dst:     ztunnel.Party{Addr: netip.MustParseAddrPort("[fd00::2]:8080"), Workload: &mesh.Workload{Namespace: "shop", Name: "pay"}},
		Dialled: netip.MustParseAddrPort("10.96.0.1:80"), Service: "shop/pay", Security: ztunnel.MutualTLS,
		Start: start, End: start.Add(time.Second), In: 3, Out: 4,
	}
}

func TestOneLineAConnectionWhateverThePeerSent(t *testing.T) {
	var out bytes.Buffer
	o := New("n1", slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
	r := record(t, 1)
	r.Detail = "evil\nlevel=ERROR msg=forged \x1b[31m"
	o.Sink(r)
	if n := strings.Count(out.String(), "\n"); n != 1 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("log has %d lines: %q", n, out.String())
	}
}

func TestOpenConnectionsAreNotCountedYet(t *testing.T) {
	o := New("n1", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	r := record(t, 1)
	r.End = time.Time{}
	o.Sink(r)
	if len(o.Flows().Ended()) != 0 {
		t.Error("an open connection is among the ended")
	}
	if n := testutil.CollectAndCount(o.metrics.connections); n != 0 {
		t.Errorf("%d series for ended connections", n)
	}
}

func TestFollowersSeeConnectionsOpenAndEndAndTheSlowOnesAreCounted(t *testing.T) {
	o := New("n1", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ch, ok := o.Flows().Follow(t.Context())
	if !ok {
		t.Fatal("refused")
	}
	r := record(t, 1)
	end := r.End
	r.End = time.Time{}
	o.Sink(r)
	r.End = end
	o.Sink(r)
	if first, second := <-ch, <-ch; first.EndUnixNano != 0 || second.EndUnixNano != end.UnixNano() || first.Id != second.Id {
		t.Errorf("followed %v and %v", first, second)
	}
	for range cap(ch) + 5 {
		o.Sink(r)
	}
	if lost := testutil.ToFloat64(o.metrics.lost); lost != 5 {
		t.Errorf("%v flows counted as lost, want 5", lost)
	}
}

// TestNoLineIsLostWhenWritingEnds: lines that were left to Run are written before it returns, and those that come later by
// whoever brings them.
func TestNoLineIsLostWhenWritingEnds(t *testing.T) {
	var out lockedBuffer
	o := New("n1", slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewRegistry())
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	const writers, each = 8, 2 * maxUnwritten
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for i := range each {
				if i == each/2 {
					stop()
				}
				o.Sink(ztunnel.Record{ID: "x", Start: time.Unix(1, 0), End: time.Unix(2, 0)})
			}
		})
	}
	all.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "msg=connection"); n != writers*each {
		t.Errorf("%d lines of %d were written", n, writers*each)
	}
	if at := "time=" + time.Unix(2, 0).Format("2006-01-02T15:04:05"); !strings.HasPrefix(out.String(), at) {
		t.Errorf("the first line does not say when its connection ended: %.80s", out.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}
