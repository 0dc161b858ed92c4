package nettest

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestTheRuntimesSignalsInterruptNoSystemCall: a call with a time limit sees the limit, however often the thread is signalled.
func TestTheRuntimesSignalsInterruptNoSystemCall(t *testing.T) {
	New(t).Do(t, func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		if err := unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
			return err
		}
		read, signalling := make(chan struct{}), make(chan struct{})
		go func(tid int) {
			defer close(signalling)
			for {
				select {
				case <-read:
					return
				default:
					_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
				}
			}
		}(unix.Gettid())
		_, err = unix.Read(pair[0], make([]byte, 1))
		close(read)
		<-signalling
		if err != unix.EAGAIN {
			t.Errorf("read answered %v, want the time limit's EAGAIN", err)
		}
		return nil
	})
}
