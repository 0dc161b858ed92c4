package bpf

import (
	"context"
	"net"
	"testing"
)

// TestRunsAreCountedWhileSomebodyAsks: the programs are at the root, so that a connection of the test's own runs them.
func TestRunsAreCountedWhileSomebodyAsks(t *testing.T) {
	c := open(t, pinDir(t))
	pods(t, c, 1)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := func() map[string]Run {
		t.Helper()
		conn, err := new(net.Dialer).DialContext(context.Background(), "tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		runs, err := c.Runs()
		if err != nil {
			t.Fatal(err)
		}
		return runs
	}
	before, err := c.Runs()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := before["steer"]; !ok || len(before) != len(hooks)+1 {
		t.Errorf("of %d programs: %v", len(before), before)
	}
	counting, err := CountRuns()
	if err != nil {
		t.Fatal(err)
	}
	during := connect()
	for _, name := range []string{"connect4", "established"} {
		if r := during[name]; r.Count <= before[name].Count || r.Time <= before[name].Time {
			t.Errorf("%s ran %+v before a connection, %+v after it", name, before[name], r)
		}
	}
	if err := counting.Close(); err != nil {
		t.Error(err)
	}
}
