// Package upstream is the waypoint's way out: which endpoint of a service gets a request ([Upstreams.Pick]), and the
// connections that requests travel by ([Pick.RoundTrip]). It owns everything that outlives a request: open connections,
// what was measured of endpoints, which of them are left out, and retry budgets. What a request may do was decided
// before it comes here.
//
// A request's way through the files: ask.go, group.go (the service's state), view.go (its endpoints in this world),
// choose.go (which of them), roundtrip.go, sent.go, pool.go (a connection), body.go (until the answer has ended).
// sweep.go follows the world, and closes what nobody uses.
//
// An endpoint is known by its address and the UID of its workload. A pod that gets another one's address gets none of
// its connections, and nothing that was measured of it.
package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

var (
	// ErrNoEndpoint is wrapped by errors of Pick if nothing may serve the request.
	ErrNoEndpoint = errors.New("no endpoint")
	// ErrOverloaded is wrapped if a limit of the service's was reached: of requests at once (Pick), or of requests that
	// wait for a connection (RoundTrip).
	ErrOverloaded = errors.New("overloaded")
	// ErrNotSent is wrapped by errors of RoundTrip if the endpoint cannot have worked on the request: it was not sent,
	// or the endpoint said that it did not look at it. Errors without it leave that open.
	ErrNotSent = errors.New("request was not sent")
	// ErrAway is wrapped by errors of Config.Dial, and of RoundTrip, if the agent of the endpoint's node is being replaced:
	// in a moment the endpoint may be reached again.
	ErrAway = errors.New("nobody takes tunnels on the endpoint's node at the moment")
	// ErrUnsendable is wrapped by errors of RoundTrip if the request itself cannot be sent, to no endpoint: it has a
	// header that the endpoint's protocol does not know, say.
	ErrUnsendable = errors.New("the request cannot be sent")
	// ErrClientDeadline is for contexts' causes: a request that ends by a deadline of the client's own choice says
	// nothing about the endpoint, while one that ends by the route's timeout counts as a failure of it.
	ErrClientDeadline = errors.New("the client's own deadline passed")
)

// Config is what New needs.
type Config struct {
	World *mesh.Store[exchange.World]
	// Dial gives a stream of bytes to the endpoint's app. The connection is for the request's, but not its alone:
	// requests of others may follow on the stream. The context has a deadline and nothing else of the request's.
	Dial func(ctx context.Context, to Endpoint, c *exchange.Conn) (net.Conn, error)
	// Zone is the waypoint's own: that of clients whose workload is not known.
	Zone string
	Log  *slog.Logger
	// Registerer takes the package's metrics; nil is none.
	Registerer prometheus.Registerer
}

// Upstreams is what a waypoint has of all services that it sends requests to.
type Upstreams struct {
	cfg        Config
	now        func() time.Time
	http1      dialer
	http2      dialer
	affinities *affinities
	metrics    *metrics
	wires      wires

	// groups is replaced as a whole, under mu: every request looks into it.
	groups atomic.Pointer[map[groupKey]*group]

	mu       sync.Mutex
	services map[serviceKey]*service
	peers    map[peerKey]*peer
	closed   bool

	stop context.CancelFunc
	done sync.WaitGroup
}

// New starts following the world. Close stops it.
func New(cfg Config) *Upstreams { return start(cfg, time.Now) }

func start(cfg Config, now func() time.Time) *Upstreams {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	u := &Upstreams{
		cfg: cfg, now: now, stop: stop,
		affinities: newAffinities(maxAffinities),
		wires:      wires{open: map[*wire]struct{}{}},
		services:   map[serviceKey]*service{},
		peers:      map[peerKey]*peer{},
	}
	u.groups.Store(&map[groupKey]*group{})
	u.http1, u.http2 = newDialer(cfg.Dial, false), newDialer(cfg.Dial, true)
	u.metrics = newMetrics(u, cfg.Registerer)
	u.done.Go(func() { u.follow(ctx) })
	u.done.Go(func() { u.sweepAll(ctx) })
	return u
}

// Close stops following the world, and ends all connections: those with requests too. It waits for both.
func (u *Upstreams) Close() {
	u.stop()
	u.mu.Lock()
	u.closed = true
	peers := u.peers
	u.peers, u.services = map[peerKey]*peer{}, map[serviceKey]*service{}
	u.groups.Store(&map[groupKey]*group{})
	u.mu.Unlock()
	for _, p := range peers {
		p.retire()
	}
	u.done.Wait()
	u.wires.close()
	u.metrics.unregister()
}
