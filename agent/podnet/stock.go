package podnet

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// stockSize is how many unconnected sockets of each family a pod keeps. One costs about 3 KiB of kernel memory
// and one fd; half of it is how many connections may start while the thread makes more.
const stockSize = 8

// stock holds unconnected sockets of one family in one pod's namespace, marked as ztunnel's own.
type stock struct {
	pod       *Pod
	domain    int // AF_INET or AF_INET6
	ready     chan *net.TCPConn
	refilling atomic.Bool
}

func newStock(p *Pod, domain int) *stock {
	return &stock{pod: p, domain: domain, ready: make(chan *net.TCPConn, stockSize)}
}

// take returns an unconnected socket. It waits only if connections start faster than sockets are made.
func (s *stock) take(ctx context.Context) (*net.TCPConn, error) {
	select {
	case c := <-s.ready:
		if len(s.ready) <= stockSize/2 {
			s.restock()
		}
		return c, nil
	default:
	}
	var conn *net.TCPConn
	err := s.pod.thread.Do(ctx, s.pod.netns, func() (err error) {
		conn, err = s.socket()
		return err
	})
	if err == nil {
		s.restock()
	}
	return conn, err
}

// restock refills the stock in the background, unless that is under way or the pod is closed.
func (s *stock) restock() {
	if !s.refilling.CompareAndSwap(false, true) {
		return
	}
	s.pod.background(func() {
		defer s.refilling.Store(false)
		_ = s.refill(s.pod.life, stockSize-len(s.ready)) // the next take that finds none says why
	})
}

func (s *stock) refill(ctx context.Context, n int) error {
	return s.pod.thread.Do(ctx, s.pod.netns, func() error {
		for range n {
			c, err := s.socket()
			if err != nil {
				return err
			}
			select {
			case s.ready <- c:
			default:
				return c.Close()
			}
		}
		return nil
	})
}

// socket makes one socket on the thread, in the pod's namespace.
func (s *stock) socket() (*net.TCPConn, error) {
	// Blocking until FileConn makes it not: package os would have the poller watch the fd that is closed at once.
	fd, err := unix.Socket(s.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close()
	if err := s.pod.capture.Own(fd); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	return c.(*net.TCPConn), nil
}

// drain closes what is in stock.
func (s *stock) drain() {
	for {
		select {
		case c := <-s.ready:
			c.Close()
		default:
			return
		}
	}
}
