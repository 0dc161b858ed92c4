package mesh

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const grpcPort = 9090

// An hour of one message a second, sent as fast as flow control lets it.
func TestGRPCStream(t *testing.T) {
	program := filepath.Join(workDir(t, "root"), "grpcstream")
	build := exec.Command("go", "build", "-o", program, "./testdata/grpcstream")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	server := func(name, node string) appPod {
		return appPod{name: name, node: node, ports: []int{grpcPort}, command: []string{program, "serve", fmt.Sprint(grpcPort)}}
	}
	a := fastAppsUp(t, appPod{name: "client", node: "n1"}, server("near", "n1"), server("far", "n2"))
	a.Tap(appsCanary)
	a.everyWay(t, func(t *testing.T, w way) {
		var seen string
		timed(t, "3600 messages of 1 KB and their acknowledgements", func() {
			seen = a.must(t, client, program, "talk", w.target(grpcPort), "3600", appsCanary)
		})
		peer, err := netip.ParseAddrPort(strings.TrimSpace(seen))
		if err != nil || peer.Addr().Unmap() != a.addr(t, "client", w.v6) {
			t.Errorf("the server sees %q (%v), want the client at %s", seen, err, a.addr(t, "client", w.v6))
		}
	})
	a.checkAccelerated(t)
}
