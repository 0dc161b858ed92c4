package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	grpcLib  = "google.golang.org/grpc"
	protobuf = "google.golang.org/protobuf"
	xsys     = "golang.org/x/sys"
	xsync    = "golang.org/x/sync"
	prom     = "github.com/prometheus/client_golang"
	ebpf     = "github.com/cilium/ebpf"
	linkLib  = "github.com/vishvananda/netlink"
	cobra    = "github.com/spf13/cobra"
	helm     = "helm.sh/helm"
	registry = "github.com/google/go-containerregistry"
	cniLib   = "github.com/containernetworking/cni"
)

// rules is the table of the design. cilium/ebpf is in bpf only and k8s.io nowhere but where it says so: nothing else
// names them.
func rules() []Rule {
	return []Rule{
		{Of: "mesh"},
		{Of: "identity", May: []string{"github.com/spiffe/go-spiffe"}},
		{Of: "policy", May: []string{"./identity"}},
		{Of: "bpf", May: []string{ebpf, xsys}},
		{Of: "ztunnel", May: []string{"./mesh", "./identity", "./policy", "golang.org/x/net", xsys}},
		{Of: "ztunnel/hbone", May: []string{"golang.org/x/net"}},
		{Of: "ztunnel/peer", May: []string{"./mesh", "./identity"}},
		{Of: "route"},
		{Of: "waypoint", May: []string{"./mesh", "./identity", "./policy", "./route", "./ztunnel/hbone", "./ztunnel/peer", "./api", "./agent/feed", "./agent/relay", "./internal/flowlog", "./internal/meshview", grpcLib, protobuf, prom, xsys, xsync, "golang.org/x/net", "golang.org/x/time"}},
		{Of: "waypoint/exchange", May: []string{"./mesh", "./identity", "./policy", "./route"}},
		{Of: "waypoint/coalesce"},
		{Of: "waypoint/authn", May: []string{"./policy", "./waypoint/keyset", "github.com/go-jose/go-jose"}},
		{Of: "waypoint/keyset", May: []string{"github.com/go-jose/go-jose"}},
		{Of: "waypoint/extauthz", May: []string{"./identity", "./policy", "./route", "./waypoint/exchange", "./waypoint/proxy", grpcLib, protobuf, "github.com/envoyproxy/go-control-plane", "google.golang.org/genproto"}},
		{Of: "waypoint/telemetry", May: []string{"./mesh", "./identity", "./policy", "./route", "./waypoint/exchange", "./api", "./internal/flowlog", prom, grpcLib, protobuf, "go.opentelemetry.io"}},
		{Of: "cmd/waypoint", May: []string{"./waypoint", "./internal", cobra, "github.com/spf13/pflag"}},
		{Of: "agent", May: []string{"./mesh", "./identity", "./policy", "./bpf", "./ztunnel", "./api", "./internal/flowlog", "./internal/meshview", "./cni/netconf", "./cni/cnichain", grpcLib, protobuf, prom, xsys, xsync, linkLib}, Never: []string{"./ztunnel/hbone"}},
		{Of: "agent/enroll", May: []string{"./mesh", "./identity", "./bpf", "./ztunnel", "./agent/podnet", "k8s.io"}},
		{Of: "agent/direct", May: []string{"./bpf", "./ztunnel"}},
		{Of: "agent/kubelet", May: []string{"./bpf", xsys}},
		{Of: "agent/podnet", May: []string{"./bpf", linkLib, xsys}},
		{Of: "agent/observe", May: []string{"./api", "./internal/flowlog", "./internal/logging", "./ztunnel", prom}},
		{Of: "controller", May: []string{"./mesh", "./identity", "./policy", "./ca", "./api", "./internal/flowlog", "./internal/meshview", grpcLib, protobuf, prom, xsys, xsync, "github.com/fsnotify/fsnotify", "go.yaml.in/yaml", "k8s.io", "sigs.k8s.io/gateway-api", "./route", "./waypoint/keyset"}},
		{Of: "ca", May: []string{"./identity", "./api", grpcLib, protobuf, prom}},
		{Of: "ca/rotation"},
		{Of: "ca/attest", May: []string{"./identity", "./ca/internal", "k8s.io"}},
		{Of: "api", May: []string{grpcLib, protobuf}},
		{Of: "api/resource", May: []string{"./api", "./mesh", "./identity", "./policy", "./route", protobuf}},
		{Of: "lab", May: []string{"./api", "./mesh", "./identity", "./internal", grpcLib, protobuf, xsys, xsync, linkLib, "github.com/miekg/dns", "sigs.k8s.io/yaml"}, Never: []string{"./internal/meshtest", "./internal/labtest"}},
		{Of: "bench", May: []string{"./internal"}},
		{Of: "bench/proc"},
		{Of: "bench/measure", May: []string{"./bench/proc"}},
		{Of: "bench/load", May: []string{"./bench/measure", xsys}},
		{Of: "bench/echo", May: []string{grpcLib, protobuf}},
		{Of: "bench/peers"},
		{Of: "bench/scene", May: []string{cobra, "./lab", "./internal/awake", "./bench/echo", "./bench/load", "./bench/proc", xsys}},
		{Of: "bench/mesh", May: []string{"./lab", "./bench", "./internal/profile", linkLib, xsys, cobra, "github.com/spf13/pflag"}},
		{Of: "bench/controller", May: []string{"./agent/feed", "./api/meshv1", "./bench", "./ca", "./internal/crowd", "./internal/profile", cobra, grpcLib, xsys}},
		{Of: "bench/waypoint", May: []string{"./lab", "./bench", cobra}},
		{Of: "cni", May: []string{"./api", cniLib, grpcLib, xsys}},
		{Of: "cni/netconf"},
		{Of: "cni/cnichain", May: []string{"./cni/netconf", cniLib, "github.com/fsnotify/fsnotify"}},
		{Of: "cmd/cni", May: []string{"./cni", "./internal/version", cniLib}, Never: []string{"./cni/cnichain"}},
		{Of: "cmd/agent", May: []string{"./agent", "./internal", cobra, "github.com/spf13/pflag"}},
		{Of: "cmd/controller", May: []string{"./controller", "./ca/attest", "./internal", cobra, "github.com/spf13/pflag", "k8s.io/api/core/v1"}},
		{Of: "cmd/agentctl", May: []string{"./api", "./ca", "./identity", "./lab", "./internal", cobra, grpcLib, protobuf, "golang.org/x/term", "sigs.k8s.io/yaml", "k8s.io"}},
		{Of: "deploy"},
		{Of: "hack/images", May: []string{"./internal/image"}},
		{Of: "internal/image", May: []string{registry}},
		{Of: "internal/release", May: []string{"./deploy", helm, "k8s.io"}},
		{Of: "internal/cluster", May: []string{"k8s.io", xsync, "sigs.k8s.io/yaml"}},
		{Of: "cmd/sample", May: []string{"./internal/sample"}},
		{Of: "internal/archtest"},
		{Of: "internal/awake"},
		{Of: "internal/logging"},
		{Of: "internal/version"},
		{Of: "internal/profile", May: []string{xsys}},
		{Of: "internal/crowd", May: []string{"./api/meshv1", "./ca", "./identity", grpcLib, protobuf}},
		{Of: "internal/flowlog", May: []string{"./api", grpcLib}},
		{Of: "internal/meshview", May: []string{"./api", "./mesh", "./identity", "./policy", grpcLib}},
		{Of: "internal/nettest", May: []string{linkLib, "github.com/vishvananda/netns", xsys}},
		{Of: "internal/meshtest", May: []string{"./agent", "./bpf", "./ca", "./identity", "./internal/nettest", "./mesh", "./policy", "./ztunnel"}},
		{Of: "internal/labtest", May: []string{"./api", "./lab", "./internal", grpcLib, xsys}},
		{Of: "internal/sample", May: []string{cobra, xsys, xsync}},
		{Of: "test", May: []string{"./internal", "./api"}},
		{Of: "test/e2e", May: []string{"./internal", "./api", "./ca", "./identity", "./deploy", "k8s.io", cobra, grpcLib, protobuf, cniLib, linkLib, "github.com/vishvananda/netns", xsys, xsync, "github.com/google/go-containerregistry"}},
	}
}

func TestPackagesImportOnlyWhatTheDesignAllows(t *testing.T) {
	packages := load(t)
	if len(packages) < 20 {
		t.Fatalf("only %d packages were found", len(packages))
	}
	for _, v := range CheckImports(rules(), packages) {
		t.Error(v)
	}
}

// TestCheckImportsSeesViolations: a rule counts once it has been seen to fail.
func TestCheckImportsSeesViolations(t *testing.T) {
	fake := []Package{
		{Path: "mesh", Imports: []string{"fmt", "net/netip"}},
		{Path: "policy", Imports: []string{Module + "/identity", Module + "/mesh"}},
		{Path: "ztunnel", Imports: []string{Module + "/ztunnel/hbone", Module + "/bpf", "k8s.io/api/core/v1"}},
		{Path: "ztunnel/hbone", Imports: []string{Module + "/ztunnel"}},
		{Path: "agent", Imports: []string{Module + "/agent/feed", Module + "/controller", Module + "/ztunnel/hbone", ebpf}},
		{Path: "meshed", Imports: []string{"fmt"}},
	}
	want := []string{
		"policy imports " + Module + "/mesh, which policy may not",
		"ztunnel imports " + Module + "/bpf, which ztunnel may not",
		"ztunnel imports k8s.io/api/core/v1, which ztunnel may not",
		"ztunnel/hbone imports " + Module + "/ztunnel, which ztunnel/hbone may not",
		"agent imports " + Module + "/controller, which agent may not",
		"agent imports " + Module + "/ztunnel/hbone, which agent may not",
		"agent imports " + ebpf + ", which agent may not",
		"meshed: no rule says what it may import",
	}
	if got := CheckImports(rules(), fake); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func load(t *testing.T) (out []Package) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, Package{Path: strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, Module), "/"), Imports: p.Imports})
	}
}
