package cnichain

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/cni/netconf"
)

const (
	bare    = `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"}]}`
	chained = `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"bridge"},{"type":"warren-cni","socket":"/run/warren/agent.sock"}]}`
)

// run runs a chain until the test ends, with times that a test can wait for.
func (n *node) run(t *testing.T) {
	t.Helper()
	n.chain.pace.settle = 10 * time.Millisecond
	n.chain.pace.retry = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.chain.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// eventually waits for an effect.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

func (n *node) eventually(t *testing.T, name, text string) {
	t.Helper()
	eventually(t, name+" is "+text, func() bool {
		raw, _ := os.ReadFile(filepath.Join(n.conf, name))
		return string(raw) == text
	})
}

func (n *node) state() State { return n.chain.Status().State }

func TestWaitsForTheMainPluginAndFollowsIt(t *testing.T) {
	n := newNode(t)
	os.RemoveAll(n.conf) // a node where no CNI was ever installed
	n.run(t)
	eventually(t, "waiting", func() bool { return n.state() == Waiting })
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	n.eventually(t, "10-x.conflist", chained)
	eventually(t, "installed", func() bool { return n.state() == Installed })

	put(t, filepath.Join(n.conf, "10-x.conflist"), bare) // in place, as a program that does not care does
	n.eventually(t, "10-x.conflist", chained)

	put(t, filepath.Join(n.conf, "05-new.conflist"), bare)
	n.eventually(t, "05-new.conflist", chained)
	n.eventually(t, "10-x.conflist", bare)

	if err := os.Remove(filepath.Join(n.conf, "05-new.conflist")); err != nil {
		t.Fatal(err)
	}
	n.eventually(t, "10-x.conflist", chained)
}

func TestPluginFileIsRepaired(t *testing.T) {
	n := newNode(t)
	n.chain.pace.most = 100
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	n.run(t)
	path := filepath.Join(n.bin, netconf.Type)
	good := func() bool {
		raw, err := os.ReadFile(path)
		info, serr := os.Lstat(path)
		return err == nil && serr == nil && string(raw) == "#!/bin/sh\necho new\n" && info.Mode() == 0o755
	}
	eventually(t, "the plug-in", good)
	for what, damage := range map[string]func() error{
		"deleted":        func() error { return os.Remove(path) },
		"not executable": func() error { return os.Chmod(path, 0o644) },
		"another":        func() error { return os.WriteFile(path, []byte("#!/bin/sh\necho old\n"), 0o755) },
		"a link":         func() error { return errors.Join(os.Remove(path), os.Symlink("/bin/true", path)) },
	} {
		if err := damage(); err != nil {
			t.Fatal(what, err)
		}
		eventually(t, "the plug-in after it was "+what, good)
	}
	if raw, err := os.ReadFile("/bin/true"); err != nil || len(raw) < 100 {
		t.Error("the link was followed:", err)
	}
}

// TestPluginIsReplacedWhileItRuns: the one that runs goes on, the next is the new one.
func TestPluginIsReplacedWhileItRuns(t *testing.T) {
	n := newNode(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.bin, netconf.Type)
	if err := os.WriteFile(path, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	running := exec.Command(path, "60")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = running.Wait() }()
	defer func() { _ = running.Process.Kill() }()
	n.chain.look(time.Now())
	if out, err := exec.Command(path).Output(); err != nil || string(out) != "new\n" {
		t.Errorf("the new plug-in says %q (%v)", out, err)
	}
	if err := running.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("the old one ended:", err)
	}
}

// TestWithoutItsFileNoConfigurationNamesIt: it would fail every pod of the node.
func TestWithoutItsFileNoConfigurationNamesIt(t *testing.T) {
	n := newNode(t)
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	if err := os.Rename(n.plugin, n.plugin+".gone"); err != nil {
		t.Fatal(err)
	}
	first, second := n.chain.look(time.Now()), n.chain.look(time.Now())
	same(t, "without plug-in", files(t, n.conf), map[string]string{"10-x.conflist": bare})
	if s := n.chain.Status(); s.State != Failed || !strings.Contains(s.Text, n.plugin) {
		t.Errorf("%+v", s)
	}
	if second <= first {
		t.Errorf("tried again after %s, then %s", first, second)
	}
	if err := os.Rename(n.plugin+".gone", n.plugin); err != nil {
		t.Fatal(err)
	}
	n.chain.look(time.Now())
	if n.state() != Installed {
		t.Errorf("%+v", n.chain.Status())
	}
}

// TestFightIsGivenUp: against a program that always takes us out, nobody wins by rewriting faster.
func TestFightIsGivenUp(t *testing.T) {
	n := newNode(t)
	now := time.Now()
	undo := func() { put(t, filepath.Join(n.conf, "10-x.conflist"), bare) }
	undo()
	n.chain.look(now)
	for i := range n.chain.pace.most {
		undo()
		now = now.Add(time.Second)
		wait := n.chain.look(now)
		if i < n.chain.pace.most-1 && n.state() != Installed {
			t.Fatalf("repair %d: %+v", i, n.chain.Status())
		}
		if i == n.chain.pace.most-1 && (wait != n.chain.pace.pause || n.state() != Failed) {
			t.Fatalf("after the last repair: %s, %+v", wait, n.chain.Status())
		}
	}
	if text := n.chain.Status().Text; !strings.Contains(text, "10-x.conflist") || !strings.Contains(text, "repaired 5 times within 1m0s") {
		t.Error(text)
	}
	undo()
	n.chain.look(now.Add(time.Second))
	same(t, "in the pause", files(t, n.conf), map[string]string{"10-x.conflist": bare})

	now = now.Add(n.chain.pace.pause)
	if wait := n.chain.look(now); wait != 2*n.chain.pace.pause {
		t.Errorf("the second pause is %s", wait)
	}
	same(t, "after the pause", files(t, n.conf), map[string]string{"10-x.conflist": chained})
	now = now.Add(2*n.chain.pace.pause + n.chain.pace.window)
	n.chain.look(now) // the other has stopped
	if n.state() != Installed || n.chain.pause != 0 {
		t.Errorf("after quiet: %+v", n.chain.Status())
	}
}

func TestLinksAreNotWrittenThrough(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside.conflist")
	put(t, outside, bare)
	t.Run("inside", func(t *testing.T) {
		n := newNode(t)
		put(t, filepath.Join(n.conf, "real"), bare)
		link(t, "real", filepath.Join(n.conf, "10-x.conflist"))
		n.chain.look(time.Now())
		if got := runtimeSees(t, n.conf); len(got) != 2 || n.state() != Installed {
			t.Errorf("%v, %+v", got, n.chain.Status())
		}
		if raw, _ := os.ReadFile(filepath.Join(n.conf, "real")); string(raw) != bare {
			t.Errorf("written through the link: %s", raw)
		}
		if err := n.chain.Remove(); err != nil {
			t.Error(err)
		}
		if to, err := os.Readlink(filepath.Join(n.conf, "10-x.conflist")); err != nil || to != "real" || len(files(t, n.conf)) != 2 {
			t.Errorf("after removing: %q %v %v", to, err, files(t, n.conf))
		}
	})
	for name, to := range map[string]string{"absolute": outside, "up": "../../outside.conflist", "dangling": "nowhere", "loop": "10-x.conflist"} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			link(t, to, filepath.Join(n.conf, "10-x.conflist"))
			n.chain.look(time.Now())
			if s := n.chain.Status(); s.State != Failed || !strings.Contains(s.Text, "10-x.conflist: it is a symbolic link that cannot be followed") {
				t.Errorf("%+v", s)
			}
			if err := n.chain.Remove(); err != nil {
				t.Error(err)
			}
			if raw, _ := os.ReadFile(outside); string(raw) != bare {
				t.Errorf("written outside: %s", raw)
			}
		})
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsNoFileDoesNotBlock(t *testing.T) {
	n := newNode(t)
	if err := errors.Join(syscall.Mkfifo(filepath.Join(n.conf, "05-pipe.conflist"), 0o644), os.Mkdir(filepath.Join(n.conf, "06-dir.conflist"), 0o755)); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(n.conf, "07-huge.conflist"), strings.Repeat(" ", maxConf+1))
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	n.chain.look(time.Now())
	if s := n.chain.Status(); s.State != Failed || !strings.Contains(s.Text, "05-pipe.conflist: it is not a regular file") {
		t.Errorf("%+v", s)
	}
	if raw, _ := os.ReadFile(filepath.Join(n.conf, "10-x.conflist")); string(raw) != chained {
		t.Errorf("%s", raw)
	}
}

// TestWhatWasWrittenMeanwhileIsNotOverwritten: a plan made of a file that is another by now is dropped.
func TestWhatWasWrittenMeanwhileIsNotOverwritten(t *testing.T) {
	n := newNode(t)
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	root, err := os.OpenRoot(n.conf)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dir, err := readDir(root)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(bare, "bridge", "ptp", 1)
	put(t, filepath.Join(n.conf, "10-x.conflist"), newer)
	if err := apply(root, planInstall(dir, n.chain.entry), dir); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	same(t, "after all", files(t, n.conf), map[string]string{"10-x.conflist": newer})
}

func TestModeAndOwnerStay(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(n.conf, "10-x.conflist")
	put(t, path, bare)
	if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 12, 34)); err != nil {
		t.Fatal(err)
	}
	n.chain.look(time.Now())
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o600 || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("%v %d %d", info.Mode(), st.Uid, st.Gid)
	}
}

// TestNobodySeesHalfAFile: whenever a runtime looks, configuration and plug-in are whole.
func TestNobodySeesHalfAFile(t *testing.T) {
	n := newNode(t)
	n.chain.pace.most = 1 << 30
	put(t, n.plugin, "#!/bin/sh\n"+strings.Repeat("# long\n", 100_000)+"echo new\n")
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		for ctx.Err() == nil {
			n.chain.look(time.Now())
			if err := n.chain.Remove(); err != nil {
				t.Error(err)
			}
			n.chain.removed = false
		}
	}()
	var named int
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		raw, err := os.ReadFile(filepath.Join(n.conf, "10-x.conflist"))
		if err != nil || !json.Valid(raw) || string(raw) != bare && string(raw) != chained {
			t.Fatalf("a runtime reads %q (%v)", raw, err)
		}
		if bin, err := os.ReadFile(filepath.Join(n.bin, netconf.Type)); err == nil && !strings.HasSuffix(string(bin), "echo new\n") {
			t.Fatalf("a runtime runs half a plug-in of %d bytes", len(bin))
		}
		if string(raw) == chained {
			named++
		}
	}
	stop()
	<-changed
	if named == 0 {
		t.Error("it was never installed")
	}
}

func TestLeftoversAreSwept(t *testing.T) {
	n := newNode(t)
	put(t, filepath.Join(n.conf, tempPrefix+"x"+tempSuffix), "half")
	put(t, filepath.Join(n.bin, tempPrefix+"x"+tempSuffix), "half")
	n.chain.look(time.Now())
	if c, b := files(t, n.conf), files(t, n.bin); len(c) != 0 || len(b) != 1 {
		t.Errorf("%v %v", c, b)
	}
}

// TestRemoveWinsOverRun: the chain that still runs does not put back what was removed, whoever writes.
func TestRemoveWinsOverRun(t *testing.T) {
	n := newNode(t)
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	n.run(t)
	n.eventually(t, "10-x.conflist", chained)
	if err := n.chain.Remove(); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(n.conf, "05-new.conflist"), bare)
	n.chain.look(time.Now())
	same(t, "after removing", files(t, n.conf), map[string]string{"05-new.conflist": bare, "10-x.conflist": bare})
	if err := n.chain.Remove(); err != nil || n.state() != Removed {
		t.Errorf("again: %v, %+v", err, n.chain.Status())
	}
	os.RemoveAll(n.conf)
	os.RemoveAll(n.bin)
	if err := n.chain.Remove(); err != nil {
		t.Errorf("without directories: %v", err)
	}
}

// TestRemoveKeepsThePluginWhileItIsNamed: a file that cannot be edited still names it, and every pod would fail.
func TestRemoveKeepsThePluginWhileItIsNamed(t *testing.T) {
	n := newNode(t)
	put(t, filepath.Join(n.conf, "10-x.conflist"), bare)
	n.chain.look(time.Now())
	put(t, filepath.Join(n.conf, "20-x.conflist"), chained+",")
	if err := n.chain.Remove(); err == nil || !strings.Contains(err.Error(), "20-x.conflist: warren-cni cannot be taken out of it") {
		t.Error(err)
	}
	if len(files(t, n.bin)) != 1 {
		t.Error("the plug-in is gone")
	}
	same(t, "10-x", files(t, n.conf), map[string]string{"10-x.conflist": bare, "20-x.conflist": chained + ","})
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{ConfDir: "/a", BinDir: "/b", Plugin: "/c"}
	for want, change := range map[string]func(*Config){
		"ConfDir": func(c *Config) { c.ConfDir = "net.d" }, "BinDir": func(c *Config) { c.BinDir = "" },
		"Plugin": func(c *Config) { c.Plugin = "x" }, "socket": func(c *Config) { c.Conf.Socket = "x" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
