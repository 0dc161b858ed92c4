package load

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm wakes to the microsecond. The Go runtime's own timers may be a whole millisecond late, and a system call that
// sleeps keeps others from running meanwhile; a timerfd_create(2) is one more descriptor for the runtime to wait for.
type alarm struct {
	file *os.File
}

func newAlarm() (alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return alarm{}, fmt.Errorf("create a timer: %w", err)
	}
	return alarm{os.NewFile(uintptr(fd), "timer")}, nil
}

// sleepUntil returns at once if the time is past.
func (a alarm) sleepUntil(at time.Time) error {
	left := time.Until(at)
	if left <= 0 {
		return nil
	}
	if err := a.arm(left); err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	_, err := a.file.Read(make([]byte, 8))
	return err
}

func (a alarm) arm(left time.Duration) error {
	raw, err := a.file.SyscallConn()
	if err != nil {
		return err
	}
	err2 := raw.Control(func(fd uintptr) {
		err = unix.TimerfdSettime(int(fd), 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(left.Nanoseconds())}, nil)
	})
	return errors.Join(err, err2)
}
