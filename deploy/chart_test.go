package deploy_test

import (
	"cmp"
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/internal/release"
)

// -update rewrites testdata/golden from what the chart renders.
var update = flag.Bool("update", false, "rewrite testdata/golden")

func render(t *testing.T, values string) string {
	t.Helper()
	out, err := tryRender(values)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tryRender returns all manifests, then the hooks in their order.
func tryRender(values string) (string, error) {
	merged, err := release.Values([][]byte{[]byte(values)}, nil)
	if err != nil {
		return "", err
	}
	manifests, hooks, err := release.Render(context.Background(), release.Namespace, merged)
	if err != nil {
		return "", err
	}
	slices.SortStableFunc(hooks, func(a, b *helmrelease.Hook) int {
		return cmp.Or(cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.Kind, b.Kind))
	})
	for _, h := range hooks {
		manifests += "---\n# Hook: " + h.Path + "\n" + strings.TrimPrefix(h.Manifest, "---\n") + "\n"
	}
	return manifests, nil
}

// TestGolden renders the value sets of testdata/values. `make chart-golden` accepts what changed.
func TestGolden(t *testing.T) {
	sets, err := filepath.Glob("testdata/values/*.yaml")
	if err != nil || len(sets) < 4 {
		t.Fatalf("found %d value sets: %v", len(sets), err)
	}
	for _, set := range sets {
		t.Run(filepath.Base(set), func(t *testing.T) {
			raw, err := os.ReadFile(set)
			if err != nil {
				t.Fatal(err)
			}
			got := render(t, string(raw))
			name := filepath.Join("testdata/golden", filepath.Base(set))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s renders otherwise than %s; if that is meant: make chart-golden\n%s", set, name, firstDifference(got, string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got:  " + g[i] + "\nwant: " + w[i]
		}
	}
	return "one is longer"
}

// objects decodes a rendering.
func objects(t *testing.T, rendered string) map[string]map[string]any {
	t.Helper()
	out := make(map[string]map[string]any)
	for doc := range strings.SplitSeq(rendered, "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if o == nil {
			continue
		}
		meta, _ := o["metadata"].(map[string]any)
		kind, _ := o["kind"].(string)
		name, _ := meta["name"].(string)
		key := kind + "/" + name
		if out[key] != nil {
			t.Errorf("%s occurs twice", key)
		}
		out[key] = o
	}
	return out
}

// TestSettingsAreChecked: an unknown or senseless setting is an error, not ignored.
func TestSettingsAreChecked(t *testing.T) {
	for values, want := range map[string]string{
		"agnet: {}":                               "agnet",
		"agent: {drainTimeout: soon}":             "drainTimeout",
		"agent: {maxUnavailable: 0}":              "maxUnavailable",
		"agent: {maxUnavailable: 0%}":             "maxUnavailable",
		"controller: {replicas: 0}":               "replicas",
		"image: {pullPolicy: Sometimes}":          "pullPolicy",
		"image: {registry: 'ghcr.io/x/'}":         "registry",
		"trustDomain: Cluster.Local":              "trustDomain",
		"log: {level: loud}":                      "level",
		"networkPolicy: {nodeCIDRs: [tenslash]}":  "nodeCIDRs",
		"waypoint: {replicas: 0}":                 "replicas",
		"waypoint: {drainTimeout: 30}":            "drainTimeout",
		"waypoint: {args: [rm]}":                  "args",
		"waypoint: {tracing: {ratio: 2}}":         "ratio",
		"waypoint: {tracing: {protocol: zipkin}}": "protocol",
	} {
		_, err := tryRender(values)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// TestWhatAnAgentMayDo pins the security context: a wider one must be a decision.
func TestWhatAnAgentMayDo(t *testing.T) {
	all := objects(t, render(t, ""))
	spec := at(t, all["DaemonSet/warren-agent"], "spec", "template", "spec").(map[string]any)
	if spec["hostPID"] != nil || spec["hostIPC"] != nil || spec["automountServiceAccountToken"] != false {
		t.Errorf("the agent's pod is %v", spec)
	}
	container := spec["containers"].([]any)[0].(map[string]any)
	sec := container["securityContext"].(map[string]any)
	if sec["privileged"] != false || sec["allowPrivilegeEscalation"] != false || sec["readOnlyRootFilesystem"] != true {
		t.Errorf("the agent's security context is %v", sec)
	}
	add, _ := yaml.Marshal(at(t, sec, "capabilities", "add"))
	if got, want := strings.Fields(strings.ReplaceAll(string(add), "- ", "")),
		[]string{"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"}; !slices.Equal(got, want) {
		t.Errorf("the agent has capabilities %v, want %v", got, want)
	}
	for key := range all {
		if strings.HasSuffix(key, "Binding/warren-agent") {
			t.Errorf("%s: the agent needs no rights to the API", key)
		}
	}
}

// TestNoRightIsAWildcard looks at every rule of every role.
func TestNoRightIsAWildcard(t *testing.T) {
	seen := 0
	for key, o := range objects(t, render(t, "")) {
		rules, _ := o["rules"].([]any)
		for _, r := range rules {
			seen++
			for field, values := range r.(map[string]any) {
				if slices.Contains(values.([]any), any("*")) {
					t.Errorf("%s: %s is *", key, field)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d rules were looked at", seen)
	}
}

// TestGraceIsLongerThanDraining: else the kubelet would kill an agent while connections drain.
func TestGraceIsLongerThanDraining(t *testing.T) {
	ds := objects(t, render(t, "agent: {drainTimeout: 120s}"))["DaemonSet/warren-agent"]
	if got := at(t, ds, "spec", "template", "spec", "terminationGracePeriodSeconds"); got != float64(135) {
		t.Errorf("terminationGracePeriodSeconds is %v for a drain of 120 s", got)
	}
}

// at walks into nested maps.
func at(t *testing.T, o any, path ...string) any {
	t.Helper()
	for _, p := range path {
		m, ok := o.(map[string]any)
		if !ok || m[p] == nil {
			t.Fatalf("no %s in %v", p, o)
		}
		o = m[p]
	}
	return o
}
