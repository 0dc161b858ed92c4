package bpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// TCP states as the kernel numbers them, include/net/tcp_states.h.
const (
	tcpFinWait2 = 5
	tcpLastAck  = 9
	tcpClosing  = 11
)

// batch is how long events may collect before they are told: while Run does not wait for one, the kernel need not wake it
// for each.
const batch = 2 * time.Millisecond

// Followed is told of direct connections, by one goroutine, in the order in which the kernel told.
type Followed struct {
	Opens func(Direct)
	Ended func(Direct, DirectEnd)
}

// Events follows direct connections. One at a time.
type Events struct {
	reader *ringbuf.Reader
	drains chan chan struct{}
	done   chan struct{}
}

// DirectEvents returns what follows them, from where an earlier agent stopped. The caller must Run it.
func (c *Capture) DirectEvents() (*Events, error) {
	r, err := ringbuf.NewReader(c.maps.DirectEvents)
	if err != nil {
		return nil, fmt.Errorf("read events of direct connections: %w", err)
	}
	return &Events{reader: r, drains: make(chan chan struct{}, 1), done: make(chan struct{})}, nil
}

// Run tells f of every event until ctx ends.
func (e *Events) Run(ctx context.Context, f Followed) error {
	defer close(e.done)
	stop := context.AfterFunc(ctx, func() { _ = e.reader.Close() })
	defer stop()
	var record ringbuf.Record
	var now *clock // of the batch
	for {
		err := e.reader.ReadInto(&record)
		switch {
		case errors.Is(err, ringbuf.ErrFlushed):
			close(<-e.drains)
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return fmt.Errorf("read events of direct connections: %w", err)
		default:
			if now == nil {
				c, err := newClock()
				if err != nil {
					return err
				}
				now = &c
			}
			if err := tell(f, record.RawSample, *now); err != nil {
				return err
			}
			if record.Remaining == 0 {
				time.Sleep(batch)
				now = nil
			}
		}
	}
}

// Drain returns once Run has told of everything that had happened when Drain was called, or has ended.
func (e *Events) Drain() {
	told := make(chan struct{})
	select {
	case e.drains <- told:
	case <-e.done:
		return
	}
	if e.reader.Flush() != nil {
		return // closed
	}
	select {
	case <-told:
	case <-e.done:
	}
}

func tell(f Followed, raw []byte, clock clock) error {
	var ev captureDirectEvent
	// The type is generated from what the kernel's side was compiled with, padding included.
	as := unsafe.Slice((*byte)(unsafe.Pointer(&ev)), unsafe.Sizeof(ev))
	if len(raw) != len(as) {
		return fmt.Errorf("event of a direct connection has %d bytes, want %d", len(raw), len(as))
	}
	copy(as, raw)
	d := directOf(ev.Ends, ev.Direct, clock)
	switch captureDirectKind(ev.Kind) {
	case captureDirectKindDIRECT_OPENS:
		f.Opens(d)
	case captureDirectKindDIRECT_ENDED:
		f.Ended(d, endOfDirect(ev, clock))
	}
	return nil
}

// endOfDirect reads how a connection ended. The kernel's counts have a byte for the SYN and for each FIN.
func endOfDirect(ev captureDirectEvent, clock clock) DirectEnd {
	end := DirectEnd{At: clock.time(ev.At), Err: unix.Errno(ev.Error), Retransmits: int(ev.Retransmits)}
	if ev.Direct.Established == 0 {
		end.Aborted = true
		return end
	}
	finTaken := ev.OldState == tcpFinWait2 || ev.OldState == tcpClosing || ev.OldState == tcpLastAck && ev.Error == 0
	end.In = less(ev.Acked, 1, finTaken)
	end.Out = less(ev.Received, 0, ev.Flags&uint32(captureDirectFlagDIRECT_GOT_FIN) != 0)
	end.Aborted = !finTaken
	end.Accelerated = ev.Flags&uint32(captureDirectFlagDIRECT_FAST) != 0
	end.RTT = time.Duration(ev.SrttUs) * time.Microsecond
	return end
}

// less takes off what is no payload.
func less(n, by uint64, fin bool) uint64 {
	if fin {
		by++
	}
	return n - min(n, by)
}
