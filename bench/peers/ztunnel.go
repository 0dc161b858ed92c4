package peers

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// ztunnelPort is HBONE's.
const ztunnelPort = 15008

// Ztunnel is a pair of Istio's, each dedicated to its pod, in the mode in which it reads the mesh from a file and signs its
// own certificates; that takes a binary built with the feature "testing". What the client sends to the server is
// redirected to its ztunnel, as Istio's CNI plug-in does. Unlike in Istio, the server does not see the client's address,
// which would take rules of connection tracking in the server's namespace: ztunnel is spared those here.
func Ztunnel(ctx context.Context, binary string) (Pair, error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return Pair{}, err
	}
	out, err := exec.CommandContext(ctx, path, "version").CombinedOutput()
	if err != nil {
		return Pair{}, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return Pair{
		Name: "ztunnel", Version: "ztunnel " + ztunnelVersion(string(out)), Pooled: true, Tunnel: ztunnelPort, Transparent: true,
		Server: func(dir string, self netip.Addr) (Command, error) {
			return ztunnel(path, dir, "server", netip.Addr{}, self)
		},
		Client: func(dir string, self, server netip.Addr) (Command, error) {
			return ztunnel(path, dir, "client", self, server)
		},
	}, nil
}

// ztunnelVersion is short whatever it prints: version.BuildInfo{Version:"…", GitRevision:"…", …}.
func ztunnelVersion(text string) string {
	for _, key := range []string{`Version:"`, `GitTag:"`, `GitRevision:"`} {
		if _, rest, ok := strings.Cut(text, key); ok {
			if v, _, _ := strings.Cut(rest, `"`); v != "" && v != "unknown" {
				return v[:min(len(v), len("0123456789ab"))] // a commit's hash is long
			}
		}
	}
	return "of unknown version"
}

func ztunnel(binary, dir, self string, client, server netip.Addr) (Command, error) {
	mesh := "workloads:\n"
	for _, w := range []struct {
		name, node string
		addr       netip.Addr
	}{{"client", "n1", client}, {"server", "n2", server}} {
		if w.addr.IsValid() {
			mesh += fmt.Sprintf(ztunnelWorkload, w.name, w.name, w.addr, w.node)
		}
	}
	start := []string{binary, "proxy", "ztunnel"}
	if self == "client" {
		rules := filepath.Join(dir, "redirect.nft")
		if err := write(rules, []byte(fmt.Sprintf(ztunnelRedirect, BackendPort))); err != nil {
			return Command{}, err
		}
		start = []string{"sh", "-c", `nft -f "$0" && exec "$@"`, rules, binary, "proxy", "ztunnel"}
	}
	file := filepath.Join(dir, "mesh.yaml")
	return Command{Argv: start, Env: map[string]string{
		"FAKE_CA": "true", "XDS_ADDRESS": "", "LOCAL_XDS_PATH": file,
		"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "default/" + self + "/default",
		"ZTUNNEL_WORKER_THREADS": strconv.Itoa(runtime.NumCPU()),
		"ENABLE_ORIG_SRC":        "false", // else it would need the rules of Istio's CNI plug-in in the server's namespace
	}}, write(file, []byte(mesh))
}

const (
	ztunnelWorkload = `- uid: bench//v1/Pod/default/%s
  name: %s
  namespace: default
  serviceAccount: default
  workloadIps: ["%s"]
  protocol: HBONE
  node: %s
  network: ""
  services: {}
`
	// What ztunnel dials goes to another port.
	ztunnelRedirect = `table ip bench {
  chain output {
    type nat hook output priority -100;
    tcp dport %d redirect to :15001
  }
}
`
)
