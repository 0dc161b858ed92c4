package cni_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/warren-mesh/warren/cni/cnichain"
	"github.com/warren-mesh/warren/cni/netconf"
	"github.com/warren-mesh/warren/internal/nettest"
)

// TestInstalled: what the agent installs beside a network of one plug-in is what a runtime runs, until it is removed.
func TestInstalled(t *testing.T) {
	t.Parallel()
	k, agent := newKubelet(t), &fakeAgent{}
	agent.serve(t, k.socket)
	conf, bin := filepath.Join(k.dir, "net.d"), filepath.Join(k.dir, "bin")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	single := fmt.Appendf(nil, `{"cniVersion":"0.4.0","name":"pods","type":"ptp","ipam":{"type":"host-local","dataDir":%q,"subnet":"10.78.0.0/24"}}`,
		filepath.Join(k.dir, "ipam"))
	if err := os.WriteFile(filepath.Join(conf, "10-pods.conf"), single, 0o644); err != nil {
		t.Fatal(err)
	}
	chain, err := cnichain.New(cnichain.Config{
		ConfDir: conf, BinDir: bin, Plugin: filepath.Join(pluginDir, netconf.Type), Conf: netconf.Conf{Socket: k.socket},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- chain.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); chain.Status().State != cnichain.Installed; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", chain.Status())
		}
	}
	startAndEnd(t, k, filepath.Join(conf, "10-pods-warren.conflist"), bin)
	if len(agent.added) != 1 || len(agent.removed) != 1 {
		t.Errorf("the agent was told %v and %v", agent.added, agent.removed)
	}
	if err := chain.Remove(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(k.dir, "net.d", "*")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if left, _ := os.ReadDir(bin); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func startAndEnd(t *testing.T, k *kubelet, conf, bin string) {
	t.Helper()
	list, err := libcni.NetworkConfFromFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	pod := nettest.New(t)
	cfg := libcni.NewCNIConfigWithCacheDir([]string{bin, debianPlugins}, filepath.Join(k.dir, "cache"), nil)
	rt := &libcni.RuntimeConf{ContainerID: "c1", NetNS: pod.Path, IfName: "eth0", Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "web"}, {"K8S_POD_UID", "u"},
	}}
	k.host.Do(t, func() error {
		if _, err := cfg.AddNetworkList(t.Context(), list, rt); err != nil {
			return err
		}
		return cfg.DelNetworkList(t.Context(), list, rt)
	})
}
