package ztunnel

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
)

// conns holds every open connection of the node.
type conns struct {
	max   int
	tasks sync.WaitGroup // a goroutine a connection

	mu      sync.Mutex
	open    map[*conn]struct{}
	carried int // of open: the others hold none of this process's sockets
	byPod   map[*Pod]int
}

func newConns(max int) *conns {
	return &conns{max: max, open: map[*conn]struct{}{}, byPod: map[*Pod]int{}}
}

// podShare is how much of the node's limit one pod may use: three quarters, so that no pod keeps all others out.
func (c *conns) podShare() int { return c.max - c.max/4 }

// conn is one open connection. Its fields change under mu but for the byte counts.
type conn struct {
	in, out atomic.Uint64
	pod     *Pod
	// permit lets the kernel connect the next ones like it; only for what a pod's app dialled.
	permit func()
	// traffic asks the kernel for the byte counts of a connection that it made itself; nil for what is carried.
	traffic func() (in, out uint64, err error)

	mu     sync.Mutex
	record Record
	// via is the tunnel that carries the connection, zero if none does.
	via via
	// decide decides the connection again, by the world as it is then; nil for what is decided elsewhere.
	decide func(*World) policy.Decision
	// kill ends the connection with a RST on both sides; nil until there is something to end.
	kill func()
	dead bool // kill was called, or would have been
}

// newConn returns a connection that begins now. Its parts are set one by one: a whole record would lie on the stack of a
// goroutine that the connection lives in.
func newConn(pod *Pod, id string, reporter Reporter) *conn {
	k := &conn{pod: pod}
	k.record.ID, k.record.Reporter, k.record.Start = id, reporter, time.Now()
	return k
}

// register makes a connection known before it is decided, so that no change of policy can fall between.
// It returns false if the node is at its limit, or the pod at its share.
func (c *conns) register(k *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.max > 0 && (c.carried >= c.max || c.byPod[k.pod] >= c.podShare()) {
		return false
	}
	c.open[k] = struct{}{}
	c.carried++
	c.byPod[k.pod]++
	return true
}

// enter makes a connection known that the kernel made: it counts for no limit.
func (c *conns) enter(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[k] = struct{}{}
}

// release forgets a connection; one that was never registered is none.
func (c *conns) release(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.open[k]; !ok {
		return
	}
	delete(c.open, k)
	if k.direct() {
		return
	}
	c.carried--
	if c.byPod[k.pod]--; c.byPod[k.pod] == 0 {
		delete(c.byPod, k.pod)
	}
}

func (c *conns) all() []*conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*conn, 0, len(c.open))
	for k := range c.open {
		out = append(out, k)
	}
	return out
}

// direct tells that the kernel made it, and not this process.
func (k *conn) direct() bool { return k.traffic != nil }

// end kills the connection for a reason, unless it ended first.
func (k *conn) end(reason Reason, verdict Verdict, rule, detail string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return
	}
	k.dead = true
	k.record.Reason, k.record.Verdict, k.record.Detail = reason, verdict, detail
	if rule != "" {
		k.record.Rule = rule
	}
	if k.kill != nil {
		k.kill()
	}
}

// wasEnded tells whether end came before conclude.
func (k *conn) wasEnded() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dead
}

// conclude notes how a forwarded connection ended by itself.
func (k *conn) conclude(reason Reason, detail string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return
	}
	k.dead = true
	k.record.Reason, k.record.Detail = reason, detail
}

// onKill says how to end the connection. It returns false if it was ended before.
func (k *conn) onKill(kill func()) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kill = kill
	return !k.dead
}

// carriedBy notes the tunnel that carries the connection.
func (k *conn) carriedBy(v via) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.via = v
}

// set changes the record.
func (k *conn) set(f func(*Record)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(&k.record)
}

// snapshot returns the record as it is now.
func (k *conn) snapshot() Record {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.record
	r.In, r.Out = k.in.Load(), k.out.Load()
	return r
}

// Connections returns the records of the connections that are open now, oldest first.
func (p *Proxy) Connections() []Record {
	open := p.conns.all()
	out := make([]Record, len(open))
	for i, k := range open {
		if k.direct() {
			if in, sent, err := k.traffic(); err == nil {
				k.in.Store(in)
				k.out.Store(sent)
			}
		}
		out[i] = k.snapshot()
	}
	slices.SortFunc(out, func(a, b Record) int { return cmp.Compare(a.Start.UnixNano(), b.Start.UnixNano()) })
	return out
}

// OpenConnections returns how many connections are open.
func (p *Proxy) OpenConnections() int {
	p.conns.mu.Lock()
	defer p.conns.mu.Unlock()
	return len(p.conns.open)
}

// CarriesSince tells whether a connection is carried still that was at a time already.
func (p *Proxy) CarriesSince(t time.Time) bool {
	return p.conns.carries(func(r *Record) bool { return !r.Start.After(t) })
}

// Connecting tells whether a connection that a pod of this node dialled has not reached its destination yet.
func (p *Proxy) Connecting() bool {
	return p.conns.carries(func(r *Record) bool { return r.Reporter == Outbound && r.Verdict == "" })
}

// carries tells whether a connection is carried that is of a kind.
func (c *conns) carries(kind func(*Record) bool) bool {
	for _, k := range c.all() {
		k.mu.Lock()
		found := !k.direct() && kind(&k.record)
		k.mu.Unlock()
		if found {
			return true
		}
	}
	return false
}

// Redecide decides every open connection by the world in force now and ends what is no longer allowed, and no
// other. When it returns, the world is enforced.
func (p *Proxy) Redecide() {
	p.departed.changed(time.Now())
	w := p.cfg.World.Load()
	p.direct.renew(w)
	for _, k := range p.conns.all() {
		k.mu.Lock()
		decide := k.decide
		k.mu.Unlock()
		if decide == nil {
			continue
		}
		if d := decide(w); !d.Allowed {
			k.end(ReasonPolicyChanged, Denied, d.Rule, "open connection ended: "+string(d.Reason))
		}
	}
	p.distrust()
}

// distrust ends the tunnels whose peer the bundle in force no longer vouches for, and first what they carry, so that
// each connection's record says why.
func (p *Proxy) distrust() {
	ended := p.pool.distrusted()
	if len(ended) == 0 {
		return
	}
	for _, k := range p.conns.all() {
		k.mu.Lock()
		tn := ended[k.via]
		k.mu.Unlock()
		if tn != nil {
			k.end(ReasonTrustRemoved, Denied, "", "open connection ended: its peer's root is no longer trusted")
		}
	}
	for _, tn := range ended {
		p.cfg.Log.Warn("tunnel ended: its peer's root is no longer trusted", "peer", tn.RemoteAddr().String())
		reset(tn.raw)
	}
}

// EndPod ends every connection of one pod, which was removed.
func (p *Proxy) EndPod(uid mesh.UID) {
	for _, k := range p.conns.all() {
		if k.pod.UID == uid {
			k.end(ReasonLeft, Failed, "", "")
		}
	}
}

// killGrace is how long connections that were told to end may take. The longest are those that are still being made,
// and a tunnel whose peer does not answer that it is drained.
const killGrace = 1500 * time.Millisecond

// drain waits for connections to end by themselves, and ends those that have not after grace. One that began shortly before
// has four times that, as all have while bytes go: that is a request whose answer comes. It tells whether all have ended.
func (c *conns) drain(grace time.Duration) bool {
	done := make(chan struct{})
	go func() {
		c.tasks.Wait()
		close(done)
	}()
	if within(grace, done) {
		return true
	}
	moved, bytes := time.Now(), c.bytes()
	for over := moved.Add(3 * grace); time.Now().Before(over) && (c.beganWithin(4*grace) || time.Since(moved) < grace/2); {
		if within(10*time.Millisecond, done) {
			return true
		}
		if now := c.bytes(); now != bytes {
			moved, bytes = time.Now(), now
		}
	}
	for _, k := range c.all() {
		if !k.direct() { // those need nobody
			k.end(ReasonDraining, Failed, "", "")
		}
	}
	return within(killGrace, done)
}

// bytes are what the connections that are open have moved, both ways.
func (c *conns) bytes() (n uint64) {
	for _, k := range c.all() {
		n += k.in.Load() + k.out.Load()
	}
	return n
}

// beganWithin tells whether a connection is carried that began less than d ago.
func (c *conns) beganWithin(d time.Duration) bool {
	return c.carries(func(r *Record) bool { return time.Since(r.Start) < d })
}

// within waits for done, and tells whether it came in time.
func within(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
