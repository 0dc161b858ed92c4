package rotation

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/identity"
)

func root(t *testing.T) (cert, key []byte) {
	t.Helper()
	cert, key, err := ca.NewRoot("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// authority opens a Secret's content as a controller would.
func authority(t *testing.T, data map[string][]byte) *ca.Authority {
	t.Helper()
	dir := t.TempDir()
	config := ca.Config{TrustDomain: "cluster.local", CertFile: filepath.Join(dir, Cert), KeyFile: filepath.Join(dir, Key), Log: slog.New(slog.DiscardHandler)}
	for key, content := range data {
		if err := os.WriteFile(filepath.Join(dir, key), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if len(data[Roots]) > 0 {
		config.ExtraRootsFile = filepath.Join(dir, Roots)
	}
	a, err := ca.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestNoStepBreaksWhatTheOneBeforeSigned plays a whole rotation, with an unrelated further root beside: what is signed at
// a step is trusted by nodes that are at the step before, at it and after it.
func TestNoStepBreaksWhatTheOneBeforeSigned(t *testing.T) {
	cert, key := root(t)
	further, _ := root(t)
	freshCert, freshKey := root(t)
	steps := []map[string][]byte{{Cert: cert, Key: key, Roots: further}}
	for _, step := range []func(map[string][]byte) (map[string][]byte, error){
		func(d map[string][]byte) (map[string][]byte, error) { return Begin(d, freshCert, freshKey) }, Switch, Finish,
	} {
		before := steps[len(steps)-1]
		next, err := step(before)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, next)
	}
	for i, want := range []Step{None, Trust, Sign, None} {
		if s, err := Read(steps[i]); err != nil || s.Step != want {
			t.Errorf("content %d is at %q, %v; want %q", i, s.Step, err, want)
		}
	}
	authorities := make([]*ca.Authority, len(steps))
	for i := range steps {
		authorities[i] = authority(t, steps[i])
	}
	for i, signer := range authorities {
		svid := issue(t, signer)
		for j := max(i-1, 0); j <= min(i+1, len(authorities)-1); j++ {
			if err := svid.Verify(authorities[j].Bundle(), svid.NotBefore.Add(1)); err != nil {
				t.Errorf("signed at %d, not trusted at %d: %v", i, j, err)
			}
		}
	}
	last := steps[len(steps)-1]
	if !bytes.Equal(last[Cert], freshCert) || !bytes.Equal(bytes.TrimSpace(last[Roots]), bytes.TrimSpace(further)) || len(last) != 3 {
		t.Errorf("at the end there are %d keys, roots %q", len(last), last[Roots])
	}
	if issue(t, authorities[0]).Verify(authorities[3].Bundle(), issue(t, authorities[0]).NotBefore.Add(1)) == nil {
		t.Error("the old root is trusted after the end")
	}
}

func issue(t *testing.T, a *ca.Authority) *identity.SVID {
	t.Helper()
	key, _, err := identity.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.New("cluster.local", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := a.IssueWorkload(id, key.Public(), 0)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := identity.NewSVID(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	return svid
}

func TestStepsOutOfOrderAreRefused(t *testing.T) {
	cert, key := root(t)
	freshCert, freshKey := root(t)
	start := map[string][]byte{Cert: cert, Key: key}
	begun, err := Begin(start, freshCert, freshKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"switch before begin":  second(Switch(start)),
		"finish before begin":  second(Finish(start)),
		"finish before switch": second(Finish(begun)),
		"begin twice":          second(Begin(begun, freshCert, freshKey)),
		"the same root":        second(Begin(start, cert, key)),
		"another's key":        second(Begin(start, freshCert, key)),
		"no certificate":       second(Begin(start, nil, nil)),
		"an empty Secret":      second(Begin(nil, freshCert, freshKey)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }
