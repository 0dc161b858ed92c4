package podnet

import (
	"io"
	"net"
	"sync"
)

// relays are the goroutines that stand for ztunnel in these tests.
type relays struct {
	tasks sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	conns   []net.Conn
}

// serve hands what the listeners accept to handle, until they are closed.
func (r *relays) serve(ls []net.Listener, handle func(*net.TCPConn)) {
	for _, l := range ls {
		r.tasks.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				r.track(c)
				r.tasks.Go(func() {
					defer c.Close()
					handle(c.(*net.TCPConn))
				})
			}
		})
	}
}

// track has stop close the connection.
func (r *relays) track(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		c.Close()
	}
	r.conns = append(r.conns, c)
}

// join copies both ways until both ends have ended.
func (r *relays) join(a, b *net.TCPConn) {
	r.track(b)
	defer b.Close()
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(b, a); _ = b.CloseWrite() })
	_, _ = io.Copy(a, b)
	_ = a.CloseWrite()
	up.Wait()
}

// stop ends every connection and waits for all. The listeners are closed already.
func (r *relays) stop() {
	r.mu.Lock()
	r.stopped = true
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.tasks.Wait()
	r.mu.Lock()
	r.stopped, r.conns = false, nil
	r.mu.Unlock()
}
