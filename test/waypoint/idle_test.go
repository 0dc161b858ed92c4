package waypoint

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

// TestTenThousandIdle: as many connections as clients may leave open cost little memory and hardly a file descriptor each,
// and all of them still answer.
func TestTenThousandIdle(t *testing.T) {
	const conns, mostEach = 10_000, 96 << 10
	m := up(t, "", far)
	serveFar(t, m, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	before := memory(t, m, "VmRSS")
	address := m.VIP(farService, farHTTP)
	// From two nodes: an agent takes at most as many connections as its limit of open files is good for.
	open := append(dialMany(t, m, "shop/web", conns/2, address), dialMany(t, m, "shop/pay-v1", conns/2, address)...)
	askAll(t, open)
	time.Sleep(2 * time.Second) // let what is freed be freed
	took := memory(t, m, "VmRSS") - before
	fds := descriptors(t, m)
	t.Logf("%d idle connections: %d MiB, %d KiB each, %d file descriptors", conns, took>>20, took/conns>>10, fds)
	if took/conns > mostEach {
		t.Errorf("%d KiB for a connection, want at most %d", took/conns>>10, mostEach>>10)
	}
	if fds > conns/10 {
		t.Errorf("the waypoint has %d files open", fds)
	}
	askAll(t, open)
}

// dialMany connects many times from a pod, on one thread that is thrown away with the namespace that it entered.
func dialMany(t *testing.T, m *labtest.Mesh, pod string, n int, address string) []net.Conn {
	t.Helper()
	path, err := m.PodNetNS(pod)
	if err != nil {
		t.Fatal(err)
	}
	open := make([]net.Conn, 0, n)
	t.Cleanup(func() {
		for _, c := range open {
			_ = c.Close()
		}
	})
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			for range n {
				c, err := net.DialTimeout("tcp", address, 20*time.Second)
				if err != nil {
					return fmt.Errorf("after %d connections: %w", len(open), err)
				}
				open = append(open, c)
			}
			return nil
		}()
	}()
	if err := <-done; err != nil {
		for _, f := range m.Flows(&adminv1.FlowsRequest{Verdict: "failed", Last: 3}) {
			t.Logf("failed: %s %s", f.GetReason(), f.GetDetail())
		}
		t.Fatal(err)
	}
	return open
}

// askAll asks once by each connection, some at a time.
func askAll(t *testing.T, open []net.Conn) {
	t.Helper()
	const clients = 64
	failed := make([]error, clients)
	var task sync.WaitGroup
	for i := range clients {
		task.Go(func() {
			for j := i; j < len(open) && failed[i] == nil; j += clients {
				failed[i] = askOnce(open[j])
			}
		})
	}
	task.Wait()
	for _, err := range failed {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func askOnce(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: far.shop\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return fmt.Errorf("%s: %w", c.LocalAddr(), err)
	}
	if body, err := io.ReadAll(res.Body); string(body) != "hello" || err != nil {
		return fmt.Errorf("%s: answered %s %q, %w", c.LocalAddr(), res.Status, body, err)
	}
	return nil
}

// descriptors is how many files the waypoint has open.
func descriptors(t *testing.T, m *labtest.Mesh) int {
	t.Helper()
	procs, err := m.PodProcesses("shop/waypoint-0")
	if err != nil || len(procs) != 1 {
		t.Fatalf("the waypoint's processes: %v, %v", procs, err)
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", procs[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
