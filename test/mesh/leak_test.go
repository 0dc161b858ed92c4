package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/internal/labtest"
)

// holdings is what an agent holds of the machine.
type holdings struct {
	FDs, Threads, Goroutines int
	kernel
}

// kernel is what an agent holds of the kernel's objects. Namespaces are those it has open, and those with a name in
// the lab.
type kernel struct{ Namespaces, Programs, Maps, Links, Pins int }

// slack is what may remain, and why: tunnels stay warm in the pool, up to 4 to a peer, each with an fd and 3 goroutines at
// either end; gRPC and the runtime keep a few threads and goroutines that come and go. Of the kernel's objects nothing
// may remain.
var slack = holdings{FDs: 12, Threads: 6, Goroutines: 36}

// holdingsOf counts what the agent of a node holds. Objects of BPF are counted by their kernel ids: every program that
// uses this agent's maps, every map that those use and every link that they are attached by.
func holdingsOf(t testing.TB, m *labtest.Mesh, node string) (h holdings) {
	t.Helper()
	info, err := m.Info()
	must(t, err)
	proc := filepath.Join("/proc", strconv.Itoa(agentPID(t, info.Dir, node)))
	h.FDs, h.Threads = len(entries(t, filepath.Join(proc, "fd"))), len(entries(t, filepath.Join(proc, "task")))
	h.Namespaces = len(entries(t, filepath.Join(info.Dir, "netns")))
	for _, fd := range entries(t, filepath.Join(proc, "fd")) {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Join(proc, "fd", fd.Name()), &st); err == nil && st.Type == unix.NSFS_MAGIC {
			h.Namespaces++
		}
	}
	metrics := m.MustRun("node/"+node, "curl", "-sS", "http://127.0.0.1:15020/metrics")
	for line := range strings.Lines(metrics) {
		if n, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			h.Goroutines, err = strconv.Atoi(strings.TrimSpace(n))
			must(t, err)
		}
	}
	pins := filepath.Join("/sys/fs/bpf/warren-lab", info.Name, node)
	must(t, filepath.WalkDir(pins, func(_ string, d fs.DirEntry, err error) error {
		h.Pins++
		return err
	}))
	slots, err := filepath.Glob(filepath.Join(pins, "v*", "maps", "slots"))
	must(t, err)
	if len(slots) != 1 {
		t.Fatalf("the agent of %s has %d maps of slots pinned below %s, want 1", node, len(slots), pins)
	}
	countBPF(t, slots[0], &h)
	return h
}

func countBPF(t testing.TB, pinnedSlots string, h *holdings) {
	t.Helper()
	slots, err := ebpf.LoadPinnedMap(pinnedSlots, &ebpf.LoadPinOptions{ReadOnly: false})
	must(t, err)
	defer slots.Close()
	info, err := slots.Info()
	must(t, err)
	ours, _ := info.ID()
	programs, maps := map[ebpf.ProgramID]bool{}, map[ebpf.MapID]bool{}
	var id ebpf.ProgramID
	for id, err = ebpf.ProgramGetNextID(id); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		used := mapsOf(id)
		if !used[ours] {
			continue
		}
		programs[id] = true
		for m := range used {
			maps[m] = true
		}
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	h.Programs, h.Maps = len(programs), len(maps)
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		if info, err := it.Link.Info(); err == nil && programs[info.Program] {
			h.Links++
		}
	}
	must(t, it.Err())
}

// mapsOf are the maps that a program uses; none if it is gone by now.
func mapsOf(id ebpf.ProgramID) map[ebpf.MapID]bool {
	used := map[ebpf.MapID]bool{}
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return used
	}
	defer p.Close()
	if info, err := p.Info(); err == nil {
		ids, _ := info.MapIDs()
		for _, m := range ids {
			used[m] = true
		}
	}
	return used
}

func entries(t testing.TB, dir string) []os.DirEntry {
	t.Helper()
	all, err := os.ReadDir(dir)
	must(t, err)
	return all
}

func agentPID(t testing.TB, dir, node string) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "state.json"))
	must(t, err)
	var state struct {
		Processes map[string][]struct{ PID int }
	}
	must(t, json.Unmarshal(raw, &state))
	procs := state.Processes["agent-"+node]
	return procs[len(procs)-1].PID
}

// exceeds says which counts are above what was before and the slack.
func (h holdings) exceeds(before holdings) []string {
	var out []string
	for _, c := range []struct {
		name             string
		now, then, slack int
	}{
		{"fds", h.FDs, before.FDs, slack.FDs}, {"threads", h.Threads, before.Threads, slack.Threads},
		{"goroutines", h.Goroutines, before.Goroutines, slack.Goroutines}, {"namespaces", h.Namespaces, before.Namespaces, 0},
		{"BPF programs", h.Programs, before.Programs, 0}, {"BPF maps", h.Maps, before.Maps, 0}, {"BPF links", h.Links, before.Links, 0},
		{"pins", h.Pins, before.Pins, 0},
	} {
		if c.now > c.then+c.slack {
			out = append(out, fmt.Sprintf("%d %s, %d before", c.now, c.name, c.then))
		}
	}
	return out
}

// mustHoldNoMore waits until both agents hold no more than before: the kernel frees some objects a moment later.
func mustHoldNoMore(t *testing.T, m *labtest.Mesh, before map[string]holdings) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for node, was := range before {
		now := holdingsOf(t, m, node)
		for len(now.exceeds(was)) > 0 && time.Now().Before(deadline) {
			now = holdingsOf(t, m, node)
		}
		t.Logf("%s: before %+v, after %+v", node, was, now)
		if more := now.exceeds(was); len(more) > 0 {
			t.Errorf("the agent of %s holds %s", node, strings.Join(more, "; "))
		}
	}
}

func held(t testing.TB, m *labtest.Mesh) map[string]holdings {
	return map[string]holdings{"n1": holdingsOf(t, m, "n1"), "n2": holdingsOf(t, m, "n2")}
}

// grown is what the agents hold once that has grown which grows only once; but of the kernel's objects, of which
// nothing does, what they held before.
func grown(t testing.TB, m *labtest.Mesh, grow func()) map[string]holdings {
	t.Helper()
	fresh := held(t, m)
	grow()
	after := held(t, m)
	for node, h := range after {
		h.kernel = fresh[node].kernel
		after[node] = h
	}
	return after
}

func TestTwoHundredPodsComeAndGoAndLeaveNothing(t *testing.T) {
	const batch, batches = 20, 10
	m := up(t, town(meshed, ""))
	before := grown(t, m, func() { comeAndGo(t, m, batch, 0) })
	begin := time.Now()
	for i := range batches {
		comeAndGo(t, m, batch, i+1)
	}
	t.Logf("%d pods came and went in %s", batch*batches, time.Since(begin))
	mustHoldNoMore(t, m, before)
	if n := grep(m.Agentctl("certs").Out, "/sa/pod"); n != "" {
		t.Errorf("certificates of removed pods remain:\n%s", n)
	}
}

// comeAndGo adds pods on both nodes, has each make a connection and take one, and removes them, half of them while
// a connection is open.
func comeAndGo(t *testing.T, m *labtest.Mesh, n, round int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var names []string
	var yaml strings.Builder
	for i := range n {
		names = append(names, fmt.Sprintf("shop/pod-%d-%d", round, i))
		yaml.WriteString(strings.SplitAfter(podYAML(names[i], fmt.Sprintf("n%d", i%2+1)), "\n---\n")[1] + "\n")
	}
	begin := time.Now()
	m.Write("pods.yaml", strings.TrimSuffix(yaml.String(), "---\n\n"))
	must(t, m.Reconcile(ctx))
	up := time.Since(begin)
	for i, name := range names {
		awaitPings(t, m, name, at(t, m, "shop/pay", i%4 < 2, echoPort))
		awaitPings(t, m, "shop/web", at(t, m, name, i%4 < 2, echoPort))
		if i%2 == 0 {
			c, err := dial(t, m, "shop/web", at(t, m, name, false, echoPort))
			must(t, err)
			defer c.Close()
		}
	}
	begin = time.Now()
	m.Remove("pods.yaml")
	must(t, m.Reconcile(ctx))
	t.Logf("batch %d: %d pods were up after %s and removed after %s", round, n, up, time.Since(begin))
}

func TestTwoThousandConnectionsLeaveNothing(t *testing.T) {
	m := up(t, town(meshed, ""))
	before := grown(t, m, func() { many(t, m, 200) })
	begin := time.Now()
	many(t, m, 2000)
	t.Logf("2000 connections took %s", time.Since(begin))
	mustHoldNoMore(t, m, before)
	for node := range before {
		if n := statusAt(t, m, m.AgentSocket(node)).Nodes[0].OpenConnections; n > 0 {
			t.Errorf("%s says that %d connections are open", node, n)
		}
	}
}

// many makes connections to the same node and to the other one, some at a time.
func many(t *testing.T, m *labtest.Mesh, n int) {
	t.Helper()
	to := append(bothOf(t, m, "shop/pay"), bothOf(t, m, "shop/cart")...)
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for i := range n / 8 {
				if err := ping(t, m, "shop/web", to[(w+i)%len(to)]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
}
