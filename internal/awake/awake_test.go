package awake

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// role in the environment of a copy of the test binary says what it is to do: only to say what it is after Keep, or to
// answer messages, with or without Keep.
const (
	role   = "WARREN_TEST_AWAKE"
	says   = "says"
	awake  = "awake"
	asleep = "asleep"
)

func TestMain(m *testing.M) {
	switch what := os.Getenv(role); what {
	case says:
		err := Keep()
		comm, _ := os.ReadFile("/proc/self/comm")
		fmt.Printf("%d\n%s\n%s\n%s\n%v\n", os.Getpid(), strings.TrimSpace(string(comm)), strings.Join(os.Args[1:], " "), os.Getenv(variable), err)
	case awake, asleep:
		if err := answer(what == awake); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// answer sends back what comes over the socket that is its descriptor 3, then says how often its monitor thread has slept.
func answer(keep bool) error {
	if keep {
		if err := Keep(); err != nil {
			return err
		}
	}
	c, err := net.FileConn(os.NewFile(3, "messages"))
	if err != nil {
		return err
	}
	if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err != nil {
		return err
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	// The runtime starts the monitor before all other threads, and the kernel numbers them in turn.
	ids := make([]int, len(threads))
	for i, t := range threads {
		if ids[i], err = strconv.Atoi(t.Name()); err != nil {
			return err
		}
	}
	slices.Sort(ids)
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", ids[1]))
	_, after, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
	fmt.Println(strings.TrimSpace(strings.SplitN(after, "\n", 2)[0]))
	return err
}

func TestTheProcessStaysWhatItWas(t *testing.T) {
	for _, c := range []struct{ name, before, after string }{
		{"nothing set", "", setting},
		{"others stay", "madvdontneed=1", "madvdontneed=1," + setting},
		{"a user's own trace stays", "schedtrace=2000,madvdontneed=1", "schedtrace=2000,madvdontneed=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-one", "two words")
			cmd.Env = []string{role + "=" + says, variable + "=" + c.before}
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%d\nawake.test\n-one two words\n%s\n<nil>\n", cmd.Process.Pid, c.after)
			if string(out) != want {
				t.Fatalf("said\n%swant\n%s", out, want)
			}
		})
	}
}

// TestTheMonitorIsNotWokenForEachMessage holds the setting to what it is for, with the runtime that this is built with.
func TestTheMonitorIsNotWokenForEachMessage(t *testing.T) {
	const messages = 500
	without, with := monitorSleeps(t, asleep, messages), monitorSleeps(t, awake, messages)
	t.Logf("of %d messages: the monitor slept %d times, kept awake %d", messages, without, with)
	if without < messages {
		t.Errorf("the monitor slept %d times during %d messages: the runtime lets it be by itself, and Keep is needed no more", without, messages)
	}
	if with > without/2 {
		t.Errorf("the monitor slept %d times, kept awake %d: Keep keeps nothing awake", without, with)
	}
}

// monitorSleeps has a process answer messages with pauses between them, and returns how often its monitor thread has slept.
func monitorSleeps(t *testing.T, what string, messages int) int {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.ExtraFiles = []string{role + "=" + what}, []*os.File{theirs}
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	for range messages {
		b := []byte{1}
		if _, err = ours.Write(b); err == nil {
			_, err = io.ReadFull(ours, b)
		}
		if err != nil {
			break
		}
		time.Sleep(time.Millisecond) // it has nothing to do meanwhile
	}
	ours.Close()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Fatal(err, stderr.String())
	}
	n, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
