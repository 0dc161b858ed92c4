package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

const (
	// maxMirrors is how many copies are on their way at once, mirrorTime how long one may take; more are not sent.
	maxMirrors = 512
	mirrorTime = 30 * time.Second
	// maxBehind is how many bytes of a body a mirror may be behind the backend before its copy is given up.
	maxBehind = 256 << 10
	// maxIgnored is how much of a mirror's answer is read to keep its connection.
	maxIgnored = 1 << 20
)

var errBehind = errors.New("the mirror is too slow for the request's body")

// mirrors are the copies on their way. They outlive their requests.
type mirrors struct {
	ctx  context.Context
	stop context.CancelFunc
	room chan struct{}
	done sync.WaitGroup
	mu   sync.Mutex
	over bool
}

func newMirrors() *mirrors {
	m := &mirrors{room: make(chan struct{}, maxMirrors)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

func (m *mirrors) close() {
	m.mu.Lock()
	m.over = true
	m.mu.Unlock()
	m.stop()
	m.done.Wait()
}

// start runs send if there is room; false if there is not.
func (m *mirrors) start(send func(context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return false
	}
	select {
	case m.room <- struct{}{}:
	default:
		return false
	}
	m.done.Go(func() {
		defer func() { <-m.room }()
		ctx, cancel := context.WithTimeout(m.ctx, mirrorTime)
		defer cancel()
		send(ctx)
	})
	return true
}

// mirror sends the copies that the filters want. Whatever becomes of them, the request does not notice.
func (x *passage) mirror() {
	if x.asked.upgrade != "" || x.in.Method == http.MethodConnect {
		return // there is nothing to copy but the beginning
	}
	for _, f := range x.filters() {
		for i := range f.Mirrors {
			if m := &f.Mirrors[i]; m.Broken == "" && x.drawn(m) {
				x.startMirror(m)
			}
		}
	}
}

// drawn tells whether this request is one of the mirror's part.
func (x *passage) drawn(m *route.Mirror) bool {
	if m.Denominator == 0 || m.Numerator >= m.Denominator {
		return m.Denominator == 0 || m.Numerator > 0
	}
	return uint64(x.p.random())*uint64(m.Denominator)>>32 < uint64(m.Numerator)
}

func (x *passage) startMirror(m *route.Mirror) {
	service, port, why := find(x.world.Mesh, m.Service, m.Port)
	if why != "" {
		return
	}
	c := &mirrored{upstreams: x.p.cfg.Upstreams, ask: x.ask(), req: x.send.Clone(context.Background())}
	c.ask.Service, c.ask.Port, c.ask.Target, c.ask.Session, c.ask.Tried = service, port.Number, nil, nil, nil
	c.ask.HTTP2 = speaksHTTP2(port, x.in)
	c.ask.Traffic = x.world.Traffic.For(service.FullName(), nil)
	c.request, c.policies = x.request, x.world.Policies
	c.conn = policy.Conn{Src: x.conn.Client, SrcAddr: x.conn.ClientAddr.Addr(), Dst: netip.AddrPortFrom(x.conn.Dialled.Addr(), m.Port)}
	c.ask.Request = c.req
	c.req.Header.Del("Expect")
	x.tokens.result.Strip(c.req)
	var copied *copied
	if x.body != nil {
		copied = newCopied(x.p.kept)
		c.req.Body = copied
	}
	if !x.p.mirrors.start(c.send) {
		x.p.cfg.Log.Debug("a mirror's copy is not sent: too many are on their way", "mirror", m.Service)
		return
	}
	if copied != nil {
		x.body.copyTo(copied)
	}
}

// mirrored is one copy. It has of the request only what does not end with it.
type mirrored struct {
	upstreams *upstream.Upstreams
	ask       upstream.Ask
	req       *http.Request
	policies  *policy.Set
	request   policy.Request
	conn      policy.Conn
}

// send sends the copy to where the client itself may send requests, and reads the answer for its connection's sake.
func (c *mirrored) send(ctx context.Context) {
	if c.req.Body != nil {
		defer c.req.Body.Close()
	}
	if !c.allowed(policy.Target{Targets: []string{"Service " + c.ask.Service.FullName()}}) {
		return
	}
	pick, err := c.upstreams.Pick(c.ask)
	if err != nil {
		return
	}
	c.conn.Dst = pick.Endpoint.Addr
	if !c.allowed(targetOf(pick.Endpoint)) {
		pick.Release()
		return
	}
	answer, err := pick.RoundTrip(c.req.WithContext(ctx))
	if err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, answer.Body, maxIgnored)
	_ = answer.Body.Close()
}

func (c *mirrored) allowed(t policy.Target) bool {
	return c.policies.DecideRequest(t, c.conn, &c.request).Allowed
}

// copied is a body for a mirror: what the backend's tries read first is offered here, and never waited for.
type copied struct {
	allowed *budget
	mu      sync.Mutex
	more    sync.Cond
	ahead   []byte
	end     error
	closed  bool
}

func newCopied(allowed *budget) *copied {
	c := &copied{allowed: allowed}
	c.more.L = &c.mu
	return c
}

// offer adds what was read, and how it ended.
func (c *copied) offer(p []byte, end error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil || c.closed {
		return
	}
	switch {
	case len(c.ahead)+len(p) > maxBehind || !c.allowed.take(len(p)):
		c.drop()
		c.end = errBehind
	default:
		c.ahead = append(c.ahead, p...)
		c.end = end
	}
	c.more.Signal()
}

func (c *copied) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ahead) == 0 && c.end == nil && !c.closed {
		c.more.Wait()
	}
	if c.closed {
		return 0, errSuperseded
	}
	n := copy(p, c.ahead)
	c.allowed.give(n)
	c.ahead = c.ahead[n:]
	if n == 0 && len(p) > 0 {
		return 0, c.end
	}
	return n, nil
}

// Close gives the rest up.
func (c *copied) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.drop()
	c.more.Broadcast()
	return nil
}

func (c *copied) drop() {
	c.allowed.give(len(c.ahead))
	c.ahead = nil
}
