package cnichain

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/tools/txtar"

	"github.com/warren-mesh/warren/cni/netconf"
)

// node is a host's directories, with a plug-in that comes with the agent.
type node struct {
	conf, bin, plugin string
	chain             *Chain
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{conf: filepath.Join(dir, "net.d"), bin: filepath.Join(dir, "bin"), plugin: filepath.Join(dir, "plugin")}
	for _, d := range []string{n.conf, n.bin} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, n.plugin, "#!/bin/sh\necho new\n")
	n.chain = n.newChain(t)
	return n
}

func (n *node) newChain(t *testing.T) *Chain {
	t.Helper()
	c, err := New(Config{
		ConfDir: n.conf, BinDir: n.bin, Plugin: n.plugin, Conf: netconf.Conf{Socket: netconf.DefaultSocket},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// files are the texts of a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(raw)
	}
	return out
}

// TestTable: each archive is a directory before, after installing and after removing (as before, if it does not say),
// and the status, whose second line must be in the text.
func TestTable(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) < 20 {
		t.Fatalf("only %d archives (%v)", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) { runArchive(t, name) })
	}
}

func runArchive(t *testing.T, name string) {
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dirs := map[string]map[string]string{"before": {}, "after": {}, "removed": {}}
	var status string
	for _, f := range archive.Files {
		dir, base, ok := strings.Cut(f.Name, "/")
		if !ok {
			status = string(f.Data)
			continue
		}
		dirs[dir][base] = string(f.Data)
	}
	if len(dirs["removed"]) == 0 {
		dirs["removed"] = dirs["before"]
	}
	n := newNode(t)
	for base, text := range dirs["before"] {
		put(t, filepath.Join(n.conf, base), text)
	}
	for range 2 { // the second finds nothing to do
		n.chain.look(n.chain.notBefore)
		same(t, "after installing", files(t, n.conf), dirs["after"])
		wantState, wantText, _ := strings.Cut(strings.TrimSpace(status), "\n")
		if s := n.chain.Status(); string(s.State) != wantState || !strings.Contains(s.Text, wantText) {
			t.Errorf("status %+v, want %s: …%s…", s, wantState, wantText)
		}
	}
	if len(n.chain.repairs) != 0 {
		t.Error("the second look wrote something")
	}
	if n.chain.Status().State == Installed {
		runtimeSees(t, n.conf)
	}
	if err := n.chain.Remove(); err != nil {
		t.Error(err)
	}
	same(t, "after removing", files(t, n.conf), dirs["removed"])
	if left := files(t, n.bin); len(left) != 0 {
		t.Errorf("the plug-in is still there: %v", left)
	}
}

func same(t *testing.T, when string, got, want map[string]string) {
	t.Helper()
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		t.Errorf("%s there are %v, want %v", when, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s %s is\n%s\nwant\n%s", when, name, got[name], text)
		}
	}
}

// runtimeSees reads a directory as containerd and CRI-O do: the first of all configurations counts. It returns the
// types of its plug-ins.
func runtimeSees(t *testing.T, dir string) (types []string) {
	t.Helper()
	all, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil || len(all) == 0 {
		t.Fatalf("no configuration (%v)", err)
	}
	slices.Sort(all)
	list, err := libcni.NetworkConfFromFile(all[0])
	if err != nil {
		t.Fatalf("a runtime cannot read %s: %v", all[0], err)
	}
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	if len(types) < 2 || slices.Index(types, netconf.Type) < 1 {
		t.Errorf("a runtime would run %v of %s", types, all[0])
	}
	return types
}
