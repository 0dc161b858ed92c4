package compile

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/controller/manifest"
)

var update = flag.Bool("update", false, "write what came out into testdata")

// Every testdata/*.txtar holds manifests and, in "want", what they compile to.
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := render(compileArchive(t, archive, nil))
			want := &archive.Files[len(archive.Files)-1]
			if want.Name != "want" {
				t.Fatalf("the last file is %q, not want", want.Name)
			}
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(want.Data) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want.Data)
			}
			shuffled := compileArchive(t, archive, rand.New(rand.NewPCG(1, 2)))
			if again := render(shuffled); again != got {
				t.Errorf("in another order: %s", again)
			}
			for key, r := range compileArchive(t, archive, nil).Resources {
				if !proto.Equal(r, shuffled.Resources[key]) {
					t.Errorf("%s depends on the order of the objects", key)
				}
			}
		})
	}
}

func compileArchive(t *testing.T, archive *txtar.Archive, shuffle *rand.Rand) *Output {
	t.Helper()
	var objects []*manifest.Object
	for _, f := range archive.Files {
		if !strings.HasSuffix(f.Name, ".yaml") {
			continue
		}
		parsed, _, err := manifest.Parse(f.Name, f.Data)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, parsed...)
	}
	if shuffle != nil {
		shuffle.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
	}
	out, err := Compile(objects, Options{TrustDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// render writes an output for people to review, one resource a line.
func render(out *Output) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(out.Resources)) {
		switch k := out.Resources[key].GetKind().(type) {
		case *meshv1.Resource_Workload:
			renderWorkload(&b, k.Workload)
		case *meshv1.Resource_Service:
			renderService(&b, k.Service)
		case *meshv1.Resource_Route:
			renderRoute(&b, k.Route)
		case *meshv1.Resource_Traffic:
			fmt.Fprintf(&b, "traffic %s\n", compact(k.Traffic))
		case *meshv1.Resource_Settings:
			fmt.Fprintf(&b, "nodes at %s\n", addrs(k.Settings.GetNodeAddresses()))
		case *meshv1.Resource_Policy:
			fmt.Fprintf(&b, "policy %s/%s %s", k.Policy.GetNamespace(), k.Policy.GetName(), k.Policy.GetAction())
			for _, p := range out.Decoded.Policies.All() {
				if p.FullName() == k.Policy.GetNamespace()+"/"+k.Policy.GetName() {
					for _, r := range p.Rules {
						fmt.Fprintf(&b, "\n  %s", r)
					}
				}
			}
			b.WriteByte('\n')
		}
	}
	for _, s := range append(out.Policies, out.PeerAuthentications...) {
		fmt.Fprintf(&b, "%s %s %s selects %v\n", s.Scope, s.Action, s.FullName(), s.UIDs)
	}
	renderStatuses(&b, out)
	for _, p := range out.Problems {
		fmt.Fprintf(&b, "problem %s\n", p)
	}
	return b.String()
}

func renderWorkload(b *strings.Builder, w *meshv1.Workload) {
	fmt.Fprintf(b, "workload %s %s/%s sa=%s node=%s zone=%s app=%s addrs=%s", w.GetUid(), w.GetNamespace(), w.GetName(),
		w.GetServiceAccount(), w.GetNode(), w.GetZone(), w.GetApp(), addrs(w.GetAddresses()))
	if w.GetEnrolled() {
		b.WriteString(" enrolled")
	}
	if w.GetFailOpen() {
		b.WriteString(" fail_open")
	}
	if w.GetAccelerate() {
		b.WriteString(" accelerate")
	}
	if w.GetHostNetwork() {
		b.WriteString(" host_network")
	}
	if len(w.GetPolicies()) > 0 {
		fmt.Fprintf(b, " policies=%s", strings.Join(w.GetPolicies(), ","))
	}
	fmt.Fprintf(b, " mtls=%s", w.GetMtls().GetMode())
	for _, port := range slices.Sorted(maps.Keys(w.GetMtls().GetPorts())) {
		fmt.Fprintf(b, ",%d=%s", port, w.GetMtls().GetPorts()[port])
	}
	if w.GetMtls().GetSource() != "" {
		fmt.Fprintf(b, " from %s", w.GetMtls().GetSource())
	}
	renderWaypoint(b, w)
	b.WriteByte('\n')
}

func renderService(b *strings.Builder, s *meshv1.Service) {
	fmt.Fprintf(b, "service %s vips=%s", s.GetHostname(), addrs(s.GetVips()))
	if len(s.GetExternalAddresses()) > 0 {
		fmt.Fprintf(b, " external=%s", addrs(s.GetExternalAddresses()))
	}
	for _, p := range s.GetPorts() {
		fmt.Fprintf(b, " %s:%d", p.GetName(), p.GetPort())
		if p.GetNodePort() != 0 {
			fmt.Fprintf(b, "/%d", p.GetNodePort())
		}
		if p.GetAppProtocol() != "" {
			fmt.Fprintf(b, "(%s)", p.GetAppProtocol())
		}
	}
	flag := func(name string, on bool) {
		if on {
			b.WriteString(" " + name)
		}
	}
	flag("prefer_same_node", s.GetPreferSameNode())
	flag("prefer_same_zone", s.GetPreferSameZone())
	flag("internal_local", s.GetInternalLocal())
	flag(fmt.Sprintf("affinity=%ds", s.GetAffinitySeconds()), s.GetAffinitySeconds() > 0)
	flag("waypoint="+s.GetWaypoint(), s.GetWaypoint() != "")
	b.WriteByte('\n')
	for _, split := range s.GetSplits() {
		fmt.Fprintf(b, "  split %s\n", compact(split))
	}
	for _, ep := range s.GetEndpoints() {
		fmt.Fprintf(b, "  endpoint %s %s ports=%v ready=%v", ep.GetWorkloadUid(), addrs(ep.GetAddresses()), ep.GetTargetPorts(), ep.GetReady())
		flag("serving", ep.GetServing() && !ep.GetReady())
		flag("terminating", ep.GetTerminating())
		flag("node="+ep.GetNode(), ep.GetNode() != "")
		flag("zone="+ep.GetZone(), ep.GetZone() != "")
		b.WriteByte('\n')
	}
}

func addrs(raw [][]byte) string {
	var out []string
	for _, b := range raw {
		a, _ := netip.AddrFromSlice(b)
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}
