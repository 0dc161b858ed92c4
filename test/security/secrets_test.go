// Package security searches what a whole mesh writes for what must never be written.
package security

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, "../..") }

const canary = "canary-2c86ef-in-the-payload"

// TestNothingThatIsWrittenHoldsASecret: no key, certificate or join token in any log or answer of a mesh that joined,
// carried and refused connections.
func TestNothingThatIsWrittenHoldsASecret(t *testing.T) {
	m := labtest.Up(t, labtest.Shop)
	m.Tap(canary)
	m.MustRun("shop/web", "curl", "-sS", "--max-time", "10", "-H", "X-Canary: "+canary, "http://pay.shop.svc.cluster.local/")
	m.Run("shop/web", "curl", "-sS", "--max-time", "5", "http://pay.shop.svc.cluster.local:81/") // no such port
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"a private key": "PRIVATE KEY", "a certificate": "BEGIN CERTIFICATE"}
	for _, f := range find(t, info.Dir, func(name string) bool { return filepath.Base(name) == "token" }) {
		token := strings.TrimSpace(string(read(t, f)))
		if len(token) < 16 {
			t.Fatalf("%s holds no token", f)
		}
		secrets["the join token "+filepath.Base(filepath.Dir(f))] = token
	}
	if len(secrets) != 4 {
		t.Fatalf("the join tokens of both nodes were not found, only %d secrets are known", len(secrets))
	}
	written := map[string][]byte{}
	for _, f := range find(t, info.Dir, func(name string) bool { return strings.HasSuffix(name, ".log") }) {
		written[f] = read(t, f)
	}
	if len(written) < 3 {
		t.Fatalf("only %d logs were found", len(written))
	}
	labtest.Await(t, "agentctl knows of the connection", 10*time.Second, func() bool {
		return strings.Contains(m.Agentctl("flows", "-o", "json").Out, "shop/sa/pay")
	})
	for _, args := range [][]string{{"status"}, {"flows"}, {"certs"}, {"workloads"}, {"services"}, {"policies"}, {"connections"}} {
		r := m.Agentctl(append(args, "-o", "json")...)
		if r.Code != 0 {
			t.Errorf("agentctl %v: %s", args, r.Err)
		}
		written["agentctl "+args[0]] = []byte(r.Out + r.Err)
	}
	for _, node := range []string{"n1", "n2"} {
		metrics, err := exec.Command("nsenter", "--net="+m.NodeNetNS(node), "curl", "-sS", "http://127.0.0.1:15020/metrics").Output()
		if err != nil || !bytes.Contains(metrics, []byte("warren_connections_total")) {
			t.Fatalf("metrics of %s: %v\n%s", node, err, metrics)
		}
		written["metrics of "+node] = metrics
	}
	for where, text := range written {
		for what, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s holds %s", where, what)
			}
		}
	}
	for _, f := range find(t, info.Dir, func(name string) bool { return !strings.Contains(name, "/netns/") }) {
		if !bytes.Contains(read(t, f), []byte("PRIVATE KEY")) {
			continue
		}
		if st, err := os.Stat(f); err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s holds a private key, and others than its owner may read it: %v", f, st.Mode())
		}
	}
}

func find(t *testing.T, dir string, match func(string) bool) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && match(name) {
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
