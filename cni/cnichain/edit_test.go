package cnichain

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/tools/txtar"

	"github.com/warren-mesh/warren/cni/netconf"
)

// FuzzEdit: whatever somebody's configuration is, ours is in it once or not at all, what a runtime reads of the
// others stays, and taking ours out again gives the text of before.
func FuzzEdit(f *testing.F) {
	archives, _ := filepath.Glob("testdata/*.txtar")
	for _, name := range archives {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(raw).Files {
			f.Add(file.Data)
		}
	}
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"warren-cni"},{"type":"warren-cni"} , {"type":"a"}]}`))
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"a"},{"type":"warren-cni"}],"Plugins":[]}`))
	entry, err := netconf.Conf{Socket: "/run/a.sock"}.Entry()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fuzzList(t, text, entry)
		fuzzSingle(t, text, entry)
	})
}

func fuzzList(t *testing.T, text []byte, entry json.RawMessage) {
	out, err := insert(bytes.Clone(text), entry)
	if err != nil {
		return
	}
	l, err := parseList(out)
	if err != nil || !l.asWanted(entry) {
		t.Fatalf("inserted %q: %v", out, err)
	}
	if again, err := insert(out, entry); err != nil || !bytes.Equal(again, out) {
		t.Errorf("inserted again: %q (%v), before %q", again, err, out)
	}
	bare, had, err := remove(bytes.Clone(text))
	if err != nil || !had && !bytes.Equal(bare, text) {
		t.Fatalf("removed from %q: %q (%v)", text, bare, err)
	}
	back, had, err := remove(out)
	if err != nil || !had || !bytes.Equal(back, bare) && !l.wasThere(text) {
		t.Errorf("inserted and removed: %q (%v), want %q", back, err, bare)
	}
	if was, err := libcni.NetworkConfFromBytes(text); err == nil {
		now, err := libcni.NetworkConfFromBytes(out)
		if err != nil {
			t.Fatalf("libcni reads %q but not %q: %v", text, out, err)
		}
		sameOthers(t, was, now)
	}
}

// wasThere: nothing was inserted, so the gaps around ours may be anybody's.
func (l *list) wasThere(before []byte) bool { return bytes.Equal(l.text, before) }

func sameOthers(t *testing.T, was, now *libcni.NetworkConfigList) {
	if was.Name != now.Name || was.CNIVersion != now.CNIVersion || was.DisableCheck != now.DisableCheck {
		t.Errorf("%+v became %+v", was, now)
	}
	a, b := theirs(was), theirs(now)
	if len(a) != len(b) {
		t.Fatalf("%d plug-ins became %d", len(a), len(b))
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			t.Errorf("%s became %s", a[i], b[i])
		}
	}
}

func theirs(l *libcni.NetworkConfigList) (out [][]byte) {
	for _, p := range l.Plugins {
		if p.Network.Type != netconf.Type {
			out = append(out, p.Bytes)
		}
	}
	return out
}

func fuzzSingle(t *testing.T, text []byte, entry json.RawMessage) {
	out, err := wrap(text, entry)
	if err != nil {
		return
	}
	l, err := parseList(out)
	if err != nil || len(l.plugins) != 2 || !l.asWanted(entry) || !bytes.Equal(l.cut(0), bytes.TrimSpace(text)) {
		t.Fatalf("wrapped %q: %v", out, err)
	}
}
