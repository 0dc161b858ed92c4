package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/warren-mesh/warren/internal/cluster"
)

// github.com/istio/istio, manifests/charts of 1.22.8, 1.24.6, 1.26.8, 1.28.10, 1.30.3 and 1.31.0-rc.0: ztunnel, istio-cni and
// istio-control/istio-discovery; github.com/linkerd/linkerd2, charts of stable-2.14.10, version-2.16, -2.18, -2.20 and
// edge-26.8.3; github.com/kmesh-net/kmesh, deploy of v0.5.0 to v1.2.0; github.com/kumahq/kuma, deployments/charts/kuma;
// github.com/hashicorp/consul-k8s, charts/consul; github.com/cilium/charts of 1.19.6 and 1.20.0 with encryption.type=ztunnel.
func meshRows() []conflictRow {
	ztunnel := pods("istio-system", "ztunnel", "app: ztunnel", "name: istio-proxy")
	sidecars, linkerd := injector("istio-sidecar-injector"), injector("linkerd-proxy-injector-webhook-config")
	in := func(label string) string { return namespaceWith("shop", "labels", label) }
	return []conflictRow{
		{"Istio 1.30.3 ambient", ztunnel, [2]string{}, ofMeshes, []string{"DaemonSet istio-system/ztunnel is Istio ambient's", "kubectl label namespace NAME istio.io/dataplane-mode-"}},
		{"Istio 1.30.3 resourceName=ztunnel-blue", pods("istio-system", "ztunnel-blue", "app: ztunnel", "name: istio-proxy"), [2]string{}, ofMeshes, []string{"DaemonSet istio-system/ztunnel-blue"}},
		{"Istio 1.30.3 istio-cni", pods("kube-system", "istio-cni-node", "k8s-app: istio-cni-node", "name: install-cni"), [2]string{}, ofMeshes, []string{"DaemonSet kube-system/istio-cni-node is Istio's"}},
		{"Istio 1.30.3 ambient with a namespace", ztunnel + in("istio.io/dataplane-mode: ambient"), [2]string{}, ofMeshes, []string{
			"Namespace shop: istio.io/dataplane-mode is ambient", "kubectl label namespace shop istio.io/dataplane-mode-"}},
		{"Istio 1.30.3 istiod alone, as for gateways", sidecars + in("istio-injection: disabled"), [2]string{"disabled", "enabled"}, ofMeshes, nil},
		{"Istio 1.30.3 revision=canary", injector("istio-sidecar-injector-canary") + in("istio.io/rev: canary"), [2]string{}, ofMeshes, []string{
			"Namespace shop: istio.io/rev is canary, so its pods are in Istio", "kubectl label namespace shop istio.io/rev-"}},
		{"labels of an Istio that is gone", in("istio-injection: enabled"), [2]string{}, ofMeshes, nil},
		{"Linkerd 2.20 linkerd-cni", pods("linkerd-cni", "linkerd-cni", "k8s-app: linkerd-cni", "name: install-cni"), [2]string{}, ofMeshes, []string{
			"DaemonSet linkerd-cni/linkerd-cni is Linkerd's", "kubectl annotate namespace NAME linkerd.io/inject-"}},
		{"Linkerd 2.20 injecting", linkerd + namespaceWith("shop", "annotations", "linkerd.io/inject: enabled"), [2]string{}, ofMeshes, []string{
			"Namespace shop: linkerd.io/inject is enabled, so its pods are in Linkerd", "kubectl annotate namespace shop linkerd.io/inject-"}},
		{"Linkerd 2.20 alone", linkerd + namespaceWith("shop", "annotations", "linkerd.io/inject: disabled"), [2]string{"disabled", "ingress"}, ofMeshes, nil},
		{"Kmesh 1.2.0", pods("kmesh-system", "kmesh", "app: kmesh", "name: kmesh"), [2]string{}, ofMeshes, []string{"DaemonSet kmesh-system/kmesh is Kmesh's"}},
		{"Kmesh 1.2.0 with a namespace", pods("kmesh-system", "kmesh", "app: kmesh", "name: kmesh") + in("istio.io/dataplane-mode: Kmesh"), [2]string{}, ofMeshes, []string{
			"Namespace shop: istio.io/dataplane-mode is Kmesh, so its pods are in Kmesh"}},
		{"Kuma's CNI", pods("kube-system", "kuma-cni-node", "app: kuma-cni", "name: install-cni"), [2]string{}, ofMeshes, []string{"DaemonSet kube-system/kuma-cni-node is Kuma's"}},
		{"Kuma injecting", injector("kuma-admission-mutating-webhook-configuration") + in("kuma.io/sidecar-injection: enabled"), [2]string{}, ofMeshes, []string{"so its pods are in Kuma"}},
		{"Consul's CNI", pods("consul", "consul-cni", "app: consul, component: cni", "name: install-cni"), [2]string{}, ofMeshes, []string{"DaemonSet consul/consul-cni is Consul's"}},
		{"Consul's servers", pods("consul", "consul-client", "app: consul, component: client", "name: consul"), [2]string{"component: client", "component: cni"}, ofMeshes, nil},
		{"Cilium 1.20.0 encryption.type=ztunnel", pods("kube-system", "ztunnel-cilium", "app: ztunnel-cilium", "name: ztunnel") + in("io.cilium/mtls-enabled: 'true'"), [2]string{}, ofMeshes, []string{
			"DaemonSet kube-system/ztunnel-cilium", "kubectl label namespace shop io.cilium/mtls-enabled-"}},
	}
}

// harmlessRows capture nothing of what Warren does: github.com/flannel-io/flannel v0.28.9 Documentation/kube-flannel.yml,
// github.com/aws/amazon-vpc-cni-k8s v1.23.0 config/master/aws-k8s-cni.yaml, github.com/antrea-io/antrea v2.7.0
// build/yamls/antrea.yml, github.com/cloudnativelabs/kube-router v2.11.1 daemonset/kubeadm-kuberouter-all-features.yaml,
// github.com/projectcalico/calico v3.32.1 manifests/canal.yaml, github.com/openshift/cluster-network-operator
// bindata/network/ovn-kubernetes. None of them attaches a program to a cgroup's connect hooks.
func harmlessRows() []conflictRow {
	return []conflictRow{
		{of: "Flannel 0.28.9", objects: pods("kube-flannel", "kube-flannel-ds", "tier: node, app: flannel", "name: kube-flannel")},
		{of: "AWS VPC CNI 1.23.0", objects: pods("kube-system", "aws-node", "k8s-app: aws-node", "name: aws-node")},
		{of: "Antrea 2.7.0", objects: pods("kube-system", "antrea-agent", "app: antrea, component: antrea-agent", "name: antrea-agent") + injector("crdmutator.antrea.io")},
		{of: "kube-router 2.11.1", objects: pods("kube-system", "kube-router", "k8s-app: kube-router, tier: node", "name: kube-router")},
		{of: "Canal 3.32.1", objects: pods("kube-system", "canal", "k8s-app: canal", "name: calico-node")},
		{of: "OVN-Kubernetes of OpenShift", objects: pods("openshift-ovn-kubernetes", "ovnkube-node", "app: ovnkube-node", "name: ovnkube-controller")},
		{of: "a cluster with nothing"},
	}
}

// TestANamespaceInTwoMeshesFails, however it is in the other, and not if it is in one.
func TestANamespaceInTwoMeshesFails(t *testing.T) {
	ztunnel := pods("istio-system", "ztunnel", "app: ztunnel", "name: istio-proxy")
	both := namespaceWith("shop", "labels", "warren.dev/mesh: enabled, istio.io/dataplane-mode: ambient")
	for _, c := range []struct{ objects, state string }{
		{ztunnel + both, checkFail},
		{both, checkOK}, // nobody acts on the other's label
		{ztunnel + strings.Replace(both, "ambient", "none", 1), checkOK},
		{ztunnel + strings.Replace(both, "mesh: enabled", "mesh: disabled", 1), checkOK},
	} {
		found, _ := objectServer(t, c.objects).Conflicts(t.Context())
		for _, r := range conflictChecks(found).Checks {
			if r.Check != ofTwo {
				continue
			}
			if r.State != c.state {
				t.Errorf("%s is %s: %q", c.objects, r.State, r.Details)
			}
			if r.State == checkFail && (!strings.Contains(r.Details[0], "Namespace shop: warren.dev/mesh is enabled and istio.io/dataplane-mode is ambient") ||
				r.Hint != "kubectl label namespace shop istio.io/dataplane-mode-") {
				t.Errorf("details %q, hint %q", r.Details, r.Hint)
			}
		}
	}
}

// TestCheckLooksForConflictsAfterTheInstallationToo: and says what it could not read.
func TestCheckLooksForConflictsAfterTheInstallationToo(t *testing.T) {
	a := &app{timeout: time.Minute}
	if s := a.clusterConflicts(t.Context()); s != nil {
		t.Errorf("without a cluster: %v", s)
	}
	a.asked = objectServer(t, ciliumOf("kube-system", "1.20.0", "kube-proxy-replacement: 'true'"))
	if s := a.clusterConflicts(t.Context()); worst(s) != checkFail {
		t.Errorf("with Cilium: %v", s)
	}
	client := fake.NewClientset()
	client.PrependReactor("list", "daemonsets", func(ktesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("forbidden") })
	a.asked = &cluster.Cluster{Client: client, Dynamic: objectServer(t, "").Dynamic}
	last := a.clusterConflicts(t.Context())[0].Checks
	if r := last[len(last)-1]; r.State != checkWarn || !slices.Equal(r.Details, []string{"list DaemonSets: forbidden"}) {
		t.Errorf("without the right: %+v", r)
	}
}
