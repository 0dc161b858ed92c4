package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/internal/sample"
	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/images"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// artifacts is what every test's cluster is made of. TestMain sets it.
var artifacts struct {
	binDir string
	images []string
	dir    string
	// product builds what shall be installed, the first time it is called.
	product func() (mesh.Product, error)
}

// TestMain runs nothing unless WARREN_E2E=1, so that `go test ./...` works on a machine without Kubernetes' binaries.
// `make e2e` sets it, and then whatever is missing is a failure.
func TestMain(m *testing.M) {
	cluster.BareMain()
	if os.Getenv("WARREN_E2E") != "1" {
		fmt.Println("the end-to-end tests run with make e2e")
		return
	}
	if name := os.Getenv(ownerVar); name != "" {
		os.Exit(own(name))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	dir, err := os.MkdirTemp("/tmp", "we2e-images-")
	if err == nil {
		defer os.RemoveAll(dir)
		artifacts.binDir, err = cluster.Binaries(ctx)
	}
	if err == nil {
		artifacts.dir = dir
		artifacts.product = sync.OnceValues(func() (mesh.Product, error) { return mesh.Build(ctx, dir, "e2e") })
		artifacts.images, err = images.Build(ctx, artifacts.binDir, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare the end-to-end tests:", err)
		return 1
	}
	return m.Run()
}

// kube is a cluster under test.
type kube struct {
	*cluster.Cluster
	tb     testing.TB
	client kubernetes.Interface
}

// up makes a cluster of the test's own and removes it when the test ends. If the test failed, the logs are printed.
func up(tb testing.TB, name string, edit func(*cluster.Config)) *kube {
	tb.Helper()
	cfg := config(name)
	cfg.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	if edit != nil {
		edit(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c, err := cluster.Up(ctx, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	k := &kube{Cluster: c, tb: tb}
	tb.Cleanup(k.down)
	if k.client, err = c.Client(); err != nil {
		tb.Fatal(err)
	}
	return k
}

func config(name string) cluster.Config {
	return cluster.Config{Name: name, BinDir: artifacts.binDir, Images: artifacts.images}
}

func (k *kube) down() {
	if k.tb.Failed() {
		k.tb.Log(k.LogTails(30))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := k.Down(ctx); err != nil {
		k.tb.Error(err)
	}
}

// meshed is a cluster of the test's own with the product installed. args are further ones of agentctl install.
func meshed(tb testing.TB, name string, edit func(*cluster.Config), args ...string) *mesh.Mesh {
	tb.Helper()
	product, err := artifacts.product()
	if err != nil {
		tb.Fatal(err)
	}
	m := mesh.Of(tb, up(tb, name, edit).Cluster, product)
	m.Install(args...)
	return m
}

// with is the same cluster on behalf of a subtest.
func (k *kube) with(tb testing.TB) *kube {
	c := *k
	c.tb = tb
	return &c
}

// kubectl runs kubectl, which must succeed, and returns its output.
func (k *kube) kubectl(args ...string) string {
	k.tb.Helper()
	out, err := k.tryKubectl(args...)
	if err != nil {
		k.tb.Fatal(err)
	}
	return out
}

func (k *kube) tryKubectl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return k.Kubectl(ctx, args...)
}

func (k *kube) apply(manifests string) {
	k.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := k.Apply(ctx, manifests); err != nil {
		k.tb.Fatal(err)
	}
}

// get asks an HTTP server of the sample app from inside a pod of it.
func (k *kube) get(pod, url string) (echo sample.Echo, err error) {
	out, err := k.tryKubectl("exec", pod, "--", "/sample", "client", "--timeout=3s", url)
	if err != nil {
		return echo, err
	}
	if err := json.Unmarshal([]byte(out), &echo); err != nil {
		return echo, fmt.Errorf("answer of %s: %w\n%s", url, err, out)
	}
	return echo, nil
}

// await waits until f succeeds, at most d.
func await(tb testing.TB, what string, d time.Duration, f func() error) {
	tb.Helper()
	mesh.Await(tb, what, d, f)
}

// tap listens for a word in everything that passes between nodes, until the test ends.
func (k *kube) tap(word string) *nettest.Wiretap {
	k.tb.Helper()
	return nettest.Listen(k.tb, k.ControlPlane().Netns(), func(frame []byte) bool {
		return bytes.Contains(frame, []byte(word))
	})
}
