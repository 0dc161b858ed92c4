package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	"github.com/warren-mesh/warren/internal/cluster"
	"github.com/warren-mesh/warren/internal/release"
)

func goodNode(change func(*corev1.NodeSystemInfo)) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{
		KernelVersion: "6.1.0-25-amd64", OperatingSystem: "linux", Architecture: "amd64", ContainerRuntimeVersion: "containerd://2.1.4"}}}
	change(&n.Status.NodeInfo)
	return n
}

// TestWhatIsWrongWithAClusterIsFound: one thing is wrong at a time, and exactly that is found.
func TestWhatIsWrongWithAClusterIsFound(t *testing.T) {
	node := func(change func(*corev1.NodeSystemInfo)) func(*cluster.Facts) {
		return func(f *cluster.Facts) { f.Nodes = append(f.Nodes, goodNode(change)) }
	}
	for _, c := range []struct {
		want, detail string
		state        string
		spoil        func(*cluster.Facts)
	}{
		{"", "", checkOK, func(*cluster.Facts) {}},
		{"Kubernetes is 1.30 or newer", "v1.29.4", checkFail, func(f *cluster.Facts) { f.Version = &version.Info{Major: "1", Minor: "29+", GitVersion: "v1.29.4"} }},
		{"you may install", "create secrets", checkFail, func(f *cluster.Facts) { f.Denied = []string{"create secrets in namespace warren-system"} }},
		{"no newer CRDs are there", "revision 999", checkFail, func(f *cluster.Facts) { f.CRDs = []cluster.CRD{{Name: "a.warren.dev", Revision: "999"}} }},
		{"no newer CRDs are there", "not Warren's", checkFail, func(f *cluster.Facts) { f.CRDs = []cluster.CRD{{Name: "a.warren.dev"}} }},
		{"agents' pods are admitted", `"baseline"`, checkFail, func(f *cluster.Facts) { f.NamespaceExists, f.NamespaceLevel = true, "baseline" }},
		{"everything could be read", "list nodes", checkWarn, func(f *cluster.Facts) { f.Unread = []string{"list nodes: forbidden"} }},
		{"there are nodes", "no node", checkFail, func(f *cluster.Facts) { f.Nodes = nil }},
		{"the nodes' kernels are 5.15 or newer", "node n: it runs 5.10.0-8-cloud", checkFail, node(func(i *corev1.NodeSystemInfo) { i.KernelVersion = "5.10.0-8-cloud" })},
		{"the nodes are linux on amd64 or arm64", "windows/amd64", checkWarn, node(func(i *corev1.NodeSystemInfo) { i.OperatingSystem, i.KernelVersion = "windows", "10.0.1" })},
		{"the nodes are linux on amd64 or arm64", "linux/s390x", checkWarn, node(func(i *corev1.NodeSystemInfo) { i.Architecture = "s390x" })},
		{"the container runtime is containerd or CRI-O", "docker://28", checkWarn, node(func(i *corev1.NodeSystemInfo) { i.ContainerRuntimeVersion = "docker://28" })},
	} {
		f := &cluster.Facts{Version: &version.Info{Major: "1", Minor: "34", GitVersion: "v1.34.4"}, Nodes: []corev1.Node{goodNode(func(*corev1.NodeSystemInfo) {})}}
		c.spoil(f)
		sections := clusterChecks(&cluster.Cluster{Namespace: "warren-system"}, f)
		if got := worst(sections); got != c.state {
			t.Errorf("%s: the worst is %q, want %q", c.want, got, c.state)
		}
		for _, r := range allChecks(sections) {
			switch {
			case r.Check != c.want && r.State != checkOK:
				t.Errorf("%s: %q is %s as well: %q", c.want, r.Check, r.State, r.Details)
			case r.Check == c.want && (!strings.Contains(strings.Join(r.Details, "\n"), c.detail) || r.Hint == ""):
				t.Errorf("%s: details %q, hint %q", c.want, r.Details, r.Hint)
			}
		}
	}
}

func allChecks(sections []section) (all []result) {
	for _, s := range sections {
		all = append(all, s.Checks...)
	}
	return all
}

func TestMinimumIsThatOfTheChart(t *testing.T) {
	chart, err := release.Chart()
	if err != nil {
		t.Fatal(err)
	}
	if release.MinKubernetes != "v1.30.0" || needKubernetes != 30 || !strings.HasPrefix(chart.Metadata.KubeVersion, ">=1.30.0") {
		t.Errorf("the chart is for %s, agentctl for 1.%d, rendering for %s", chart.Metadata.KubeVersion, needKubernetes, release.MinKubernetes)
	}
}

func TestRolloutIsOneLine(t *testing.T) {
	parts := []cluster.Part{{Name: "controller", Ready: 2, Want: 2}, {Name: "agents", Ready: 1, Want: 5,
		Waiting: []string{"a: x", "b: ImagePullBackOff", "c: y", "d: z"}}}
	want := "controller 2/2, agents 1/5 ready: agents on a: x; agents on b: ImagePullBackOff; agents on c: y; and 1 more"
	if got := rolloutText(parts); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNodeThatSaidNothingIsAFailure(t *testing.T) {
	for _, s := range []section{nodeSection("n", "", errors.New("the pod is refused")), nodeSection("n", "exec format error", nil)} {
		if worst([]section{s}) != checkFail {
			t.Errorf("%+v", s)
		}
	}
	ok := nodeSection("n", `[{"section":"machine-kernel","checks":[{"check":"the kernel","state":"ok"}]}]`, nil)
	if worst([]section{ok}) != checkOK || !slices.ContainsFunc(ok.Checks, func(r result) bool { return r.Check == "the kernel" }) {
		t.Errorf("%+v", ok)
	}
}
