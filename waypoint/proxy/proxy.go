// Package proxy is what a waypoint does with a request: the http.Handler between the HBONE streams of clients and the
// connections of package upstream. It owns the request while it passes and nothing that outlives it, except for copies
// that mirrors send.
//
// In the order in which a request travels:
//
//	screen.go, head.go  what an HTTP/1 client sends is read along, and must have one reading only (RFC 9112)
//	serve.go            the way, phase by phase; each ends the journey or lets it go on
//	read.go, path.go    who is asked for what: one form for host and path, which all the others see
//	authn.go, decide.go who is asking (JWT), which rule it falls to, and whether policy lets it
//	external.go         what external authorizers are asked
//	traffic.go          rate limits, faults
//	filters.go          redirects and CORS; what is changed in requests and answers
//	forward.go          a backend by weight, and the request as it will be sent
//	header.go           hop-by-hop fields (RFC 9110, 7.6.1); what is said about the client (RFC 7239)
//	retry.go, try.go    tries: an endpoint, its workload's policy, the round trip
//	body.go             the request's body: streamed, and kept for another try as far as it is small
//	mirror.go           copies for others, whose answers nobody reads
//	return.go           the answer on its way back: 1xx, header, body, trailers
//	copy.go             buffers, of which a stream that waits holds little
//	upgrade.go          other protocols on the same connection, and CONNECT
//	refuse.go           answers of the waypoint's own, in the client's terms
//	redecide.go         what lasts is decided again when policy changes
//	record.go           one [exchange.Record] for each request, however it ended
//
// What is refused is refused in words that name the reason and no address of anybody.
package proxy

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/waypoint/authn"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/limit"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// Trace is one request's place in its trace.
type Trace interface {
	Inject(h http.Header) (spanID string)
	// Silent tells that Inject changes nothing.
	Silent() bool
	Describe(r *exchange.Record)
}

// Config is what New needs.
type Config struct {
	World     *mesh.Store[exchange.World]
	Upstreams *upstream.Upstreams
	// Gateway is the one that this is a waypoint of, "<namespace>/<name>": policies may target it.
	Gateway string
	// Authn is nil where no token is looked at, Limiter where nobody is held to a rate.
	Authn   *authn.Authenticator
	Limiter *limit.Limiter
	// External is nil where no external authorizer can be asked: requests that need one are denied.
	External External
	// Tracer begins a request's span; Sink is called once for each that it was called for. Neither may block.
	Tracer func(*http.Request, *exchange.Conn) Trace
	Sink   func(*exchange.Record)
	// TrustForwarded tells whose word about the clients before it is kept, in Forwarded and X-Forwarded-*: an ingress
	// gateway's. Nil: nobody's.
	TrustForwarded func(identity.ID) bool
	// ClientCertHeader hands the client's verified certificate to apps as X-Forwarded-Client-Cert. It makes every request
	// about 1.5 KiB larger.
	ClientCertHeader bool
	// KeepEscapedSlashes lets %2F in paths pass, as it is. Policies then see it too; an app that decodes before it
	// compares sees another path than they did.
	KeepEscapedSlashes bool
	Log                *slog.Logger
}

// Proxy handles requests. Any number of goroutines may use it.
type Proxy struct {
	cfg     Config
	now     func() time.Time
	random  func() uint32
	kept    *budget // bytes of bodies that are kept for other tries and mirrors
	mirrors *mirrors
	lasting lasting
	buffers *buffers
}

// New makes a Proxy. Close ends what mirrors still send.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Sink == nil {
		cfg.Sink = func(*exchange.Record) {}
	}
	return &Proxy{
		cfg: cfg, now: time.Now, random: randomUint32,
		kept:    newBudget(maxKept),
		mirrors: newMirrors(),
		buffers: newBuffers(),
	}
}

// Close ends the copies that are still being sent, and waits for that.
func (p *Proxy) Close() { p.mirrors.close() }
