package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConfigIsRefused(t *testing.T) {
	for _, test := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "a cluster's name is"},
		{Config{Name: "UPPER"}, "a cluster's name is"},
		{Config{Name: "-x"}, "a cluster's name is"},
		{Config{Name: strings.Repeat("x", 21)}, "a cluster's name is"},
		{Config{Name: "x", Nodes: 10}, "10 nodes: it can have 1 to 9"},
		{Config{Name: "x", ProxyMode: "ipvs"}, `proxy mode "ipvs"`},
		{Config{Name: "x", CNI: "calico"}, `CNI "calico"`},
		{Config{Name: "x", Dir: "/var/tmp/x"}, "a directory outside /var"},
		{Config{Name: "x", BinDir: "/nowhere"}, "the binary kube (make e2e-binaries)"},
		{Config{Name: "x", Images: []string{"/nowhere/image.tar"}}, "the image archive /nowhere/image.tar"},
	} {
		_, err := Up(t.Context(), test.cfg)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v, want %q", test.cfg, err, test.want)
		}
	}
}

func TestLogTails(t *testing.T) {
	c := &Cluster{cfg: Config{Dir: t.TempDir()}}
	if err := os.MkdirAll(c.path("logs"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "one\ntwo\n" + strings.Repeat("x", 1000) + "\n"
	if err := os.WriteFile(filepath.Join(c.path("logs"), "a.log"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	want := "--- a.log\ntwo\n" + strings.Repeat("x", 240) + "\n"
	if got := c.LogTails(2); got != want {
		t.Errorf("got %q", got)
	}
}
