package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What other projects install, cut down to the names, labels and values that count. Each row says where they are from; all
// were found by rendering the projects' own charts and manifests of these versions.

// The checks of conflicts.
const (
	ofSockets  = "Cilium leaves pods' sockets alone"
	ofRestarts = "Cilium can start again beside other programs"
	ofChain    = "Cilium leaves other plug-ins in the CNI chain"
	ofCalico   = "Calico leaves pods' sockets alone"
	ofMeshes   = "no other mesh captures pods"
	ofTwo      = "no namespace is in two meshes"
)

// conflictRow is one installation. With parts its only finding is of the check, and has them in details or hint. Without, it
// has no finding; but then replaces one text in its objects by another, with which the check's appears: it was looked at.
type conflictRow struct {
	of      string
	objects string
	but     [2]string
	check   string
	parts   []string
}

func object(apiVersion, kind, namespace, name, more string) string {
	return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata: {namespace: %q, name: %q}\n%s\n", apiVersion, kind, namespace, name, more)
}

// pods is a DaemonSet whose pods have the labels and one container.
func pods(namespace, name, labels, container string) string {
	return object("apps/v1", "DaemonSet", namespace, name,
		fmt.Sprintf("spec: {template: {metadata: {labels: {%s}}, spec: {containers: [{%s}]}}}", labels, container))
}

// ciliumOf is an installation with these values of the ConfigMap.
func ciliumOf(namespace, version, data string) string {
	return object("v1", "ConfigMap", namespace, "cilium-config", "data: {"+data+"}") +
		pods(namespace, "cilium", "k8s-app: cilium", "name: cilium-agent, image: 'quay.io/cilium/cilium:v"+version+"@sha256:0', args: [--config-dir=/tmp/cilium/config-map]")
}

// namespace is one with labels or annotations.
func namespaceWith(name, key, values string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: %s, %s: {%s}}\n", name, key, values)
}

func injector(name string) string {
	return object("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "", name, "")
}

// github.com/cilium/charts, cilium-VERSION.tgz: templates/cilium-configmap.yaml and cilium-agent/daemonset.yaml, with the
// values named; what the agent makes of them: github.com/cilium/cilium, pkg/kpr and daemon/cmd/kube_proxy_replacement.go.
func ciliumRows() (rows []conflictRow) {
	const off = "kube-proxy-replacement: 'false', bpf-lb-sock: 'false', cni-exclusive: "
	const on = "kube-proxy-replacement: 'true', bpf-lb-sock: 'false', cni-exclusive: 'false'"
	for _, v := range []string{"1.14.19", "1.15.19", "1.16.19", "1.17.18", "1.18.12", "1.19.6", "1.20.0", "1.21.0-pre.0"} {
		rows = append(rows,
			conflictRow{"Cilium " + v + " kubeProxyReplacement=true", ciliumOf("kube-system", v, on), [2]string{}, ofSockets, []string{
				"ConfigMap kube-system/cilium-config: kube-proxy-replacement is true, and bpf-lb-sock-hostns-only is not true",
				`kubectl -n kube-system patch configmap cilium-config --type merge -p '{"data":{"bpf-lb-sock-hostns-only":"true"}}' && kubectl -n kube-system rollout restart daemonset/cilium`}},
			conflictRow{"Cilium " + v + " and socketLB.hostNamespaceOnly=true", ciliumOf("kube-system", v, on+", bpf-lb-sock-hostns-only: 'true'"),
				[2]string{"hostns-only: 'true'", "hostns-only: 'false'"}, ofSockets, nil},
			conflictRow{"Cilium " + v + " socketLB.enabled=true elsewhere", ciliumOf("cilium", v, strings.Replace(off+"'false'", "sock: 'false'", "sock: 'true'", 1)),
				[2]string{}, ofSockets, []string{"ConfigMap cilium/cilium-config: bpf-lb-sock is true", "kubectl -n cilium patch configmap"}})
	}
	for _, v := range []string{"1.14.19", "1.18.12", "1.18.13", "1.19.6", "1.19.7"} {
		rows = append(rows, conflictRow{"Cilium " + v + " cni.exclusive=false", ciliumOf("kube-system", v, off+"'false'"), [2]string{}, ofRestarts, []string{
			"ConfigMap kube-system/cilium-config: with kube-proxy-replacement false and bpf-lb-sock false Cilium v" + v + " balances no sockets",
			`upgrade Cilium to 1.18.14, 1.19.8, 1.20 or newer`, `-p '{"data":{"bpf-lb-sock":"true","bpf-lb-sock-hostns-only":"true"}}' && kubectl`}})
	}
	for _, v := range []string{"1.18.14", "1.19.8", "1.20.0", "1.21.0-pre.0"} {
		rows = append(rows,
			conflictRow{"Cilium " + v + " cni.exclusive=false", ciliumOf("kube-system", v, off+"'false'"), [2]string{"v" + v, "v1.17.18"}, ofRestarts, nil},
			conflictRow{"Cilium " + v + " as it is by default", ciliumOf("kube-system", v, off+"'true'"), [2]string{}, ofChain, []string{
				"ConfigMap kube-system/cilium-config: cni-exclusive is true", `-p '{"data":{"cni-exclusive":"false"}}' && kubectl`, "cni.exclusive=false"}})
	}
	return append(rows, ciliumOldRows()...)
}

// Values of older versions; those of Azure's, which has no DaemonSet in what is published (github.com/Azure/azure-container-networking,
// test/integration/manifests/cilium/v1.14 and v1.17/cilium-config); and settings that are not in the ConfigMap.
func ciliumOldRows() []conflictRow {
	hostOnly := ciliumOf("kube-system", "1.20.0", "kube-proxy-replacement: 'true', bpf-lb-sock-hostns-only: 'true'")
	config := func(data string) string {
		return object("v1", "ConfigMap", "kube-system", "cilium-config", "data: {"+data+"}")
	}
	const agent = "name: cilium-agent, image: 'gke.gcr.io/cilium/cilium:v1.20.0'"
	postStart := "kube-proxy-replacement: 'disabled', bpf-lb-sock: 'false'"
	return []conflictRow{
		{"Cilium 1.12.0 as it is by default", ciliumOf("kube-system", "1.12.0", "kube-proxy-replacement: 'probe', bpf-lb-sock: 'false'"), [2]string{}, ofSockets,
			[]string{"kube-proxy-replacement is probe"}},
		{"Cilium 1.13.18 kubeProxyReplacement=strict", ciliumOf("kube-system", "1.13.18", "kube-proxy-replacement: 'strict', bpf-lb-sock: 'false'"), [2]string{}, ofSockets,
			[]string{"kube-proxy-replacement is strict"}},
		{"Cilium 1.13.18 socketLB.enabled=true", ciliumOf("kube-system", "1.13.18", "kube-proxy-replacement: 'disabled', bpf-lb-sock: 'true'"), [2]string{}, ofRestarts,
			[]string{"with kube-proxy-replacement disabled and bpf-lb-sock true Cilium v1.13.18"}},
		{"Cilium 1.12.0 cni.exclusive=true", strings.Replace(ciliumOf("kube-system", "1.20.0", postStart), "args:",
			"lifecycle: {postStart: {exec: {command: [/cni-install.sh, --cni-exclusive=true]}}}, args:", 1), [2]string{}, ofChain,
			[]string{"DaemonSet kube-system/cilium: --cni-exclusive is true", "kubectl -n kube-system edit daemonset/cilium: --cni-exclusive=false"}},
		{"Cilium 1.13.18 cni.exclusive=true", strings.Replace(ciliumOf("kube-system", "1.20.0", postStart), "args:",
			"lifecycle: {postStart: {exec: {command: [bash, -c, '/cni-install.sh --enable-debug=false --cni-exclusive=true --log-file=/x']}}}, args:", 1), [2]string{}, ofChain,
			[]string{"DaemonSet kube-system/cilium: --cni-exclusive is true"}},
		{"Azure CNI powered by Cilium 1.14", config("kube-proxy-replacement: strict"), [2]string{}, ofSockets, []string{"kube-proxy-replacement is strict"}},
		{"Azure CNI powered by Cilium 1.17", config("kube-proxy-replacement: 'true', bpf-lb-sock: 'false', cni-exclusive: 'false'"), [2]string{}, ofSockets,
			[]string{"kube-proxy-replacement is true"}},
		{"Cilium of an unknown version without socket balancing", config("kube-proxy-replacement: 'false'"), [2]string{}, ofRestarts,
			[]string{"Cilium of an unknown version", "bpf-lb-sock not set"}},
		{"Cilium 1.20.0 with a CiliumNodeConfig", hostOnly + object("cilium.io/v2", "CiliumNodeConfig", "kube-system", "gpu", "spec: {defaults: {bpf-lb-sock-hostns-only: 'true'}}"),
			[2]string{"defaults: {bpf-lb-sock-hostns-only: 'true'", "defaults: {bpf-lb-sock-hostns-only: 'false'"}, ofSockets, nil},
		{"Cilium 1.20.0 whose CiliumNodeConfig is exclusive", hostOnly + object("cilium.io/v2alpha1", "CiliumNodeConfig", "kube-system", "gpu", "spec: {defaults: {cni-exclusive: 'true'}}"),
			[2]string{}, ofChain, []string{"CiliumNodeConfig kube-system/gpu: spec.defaults.cni-exclusive is true", `patch ciliumnodeconfig gpu --type merge -p '{"spec":{"defaults":{"cni-exclusive":"false"}}}'`}},
		{"a CiliumNodeConfig of another namespace", hostOnly + object("cilium.io/v2", "CiliumNodeConfig", "other", "gpu", "spec: {defaults: {cni-exclusive: 'true'}}"),
			[2]string{`namespace: "other"`, `namespace: "kube-system"`}, ofChain, nil},
		{"a DaemonSet of another name, by argument", config("kube-proxy-replacement: 'true'") + pods("kube-system", "anetd", "k8s-app: cilium", agent+", args: [--bpf-lb-sock-hostns-only=true]"),
			[2]string{"only=true", "only=false"}, ofSockets, nil},
		{"an argument without a value", config("kube-proxy-replacement: 'true'") + pods("kube-system", "anetd", "k8s-app: cilium", agent+", args: [--bpf-lb-sock-hostns-only]"),
			[2]string{"[--bpf-lb-sock-hostns-only]", "[]"}, ofSockets, nil},
		{"by environment", config("kube-proxy-replacement: 'true'") + pods("kube-system", "cilium", "k8s-app: cilium", agent+", env: [{name: CILIUM_BPF_LB_SOCK_HOSTNS_ONLY, value: 'true'}]"),
			[2]string{"value: 'true'", "value: 'false'"}, ofSockets, nil},
		// 1.20.0 gatewayAPI.enabled=true, with which the chart sets the last by itself.
		{"Cilium 1.20.0 gatewayAPI.enabled=true", hostOnly, [2]string{"hostns-only: 'true'", "hostns-only: ''"}, ofSockets, nil},
	}
}

// github.com/projectcalico/calico, manifests of v3.26.5 to v3.32.1: calico.yaml, calico-bpf.yaml, custom-resources-bpf.yaml and,
// for the group projectcalico.org, calico-v3-crds.yaml (3.32); who outranks whom: felix/config/config_params.go; the operator:
// github.com/tigera/operator v1.43.0, pkg/controller/installation. Since 3.27 "Disabled" is enough
// (felix/dataplane/linux/int_dataplane.go).
func calicoRows() []conflictRow {
	felix := func(version, name, spec string) string {
		return object(version, "FelixConfiguration", "", name, "spec: {"+spec+"}")
	}
	node := func(env string) string {
		return pods("kube-system", "calico-node", "k8s-app: calico-node", "name: calico-node, env: ["+env+"]")
	}
	const v1, v3 = "crd.projectcalico.org/v1", "projectcalico.org/v3"
	const on, disabled = "bpfEnabled: true", "bpfConnectTimeLoadBalancing: Disabled"
	const envOn = "{name: FELIX_BPFENABLED, value: 'true'}"
	operator := object("operator.tigera.io/v1", "Installation", "", "default", "spec: {calicoNetwork: {linuxDataplane: BPF}}")
	return []conflictRow{
		{"Calico 3.32.1 calico.yaml", node("{name: FELIX_IPV6SUPPORT, value: 'false'}"), [2]string{"FELIX_IPV6SUPPORT, value: 'false'", "FELIX_BPFENABLED, value: 'true'"}, ofCalico, nil},
		{"Calico 3.32.1 calico-bpf.yaml", node(envOn), [2]string{}, ofCalico, []string{"DaemonSet kube-system/calico-node: env FELIX_BPFENABLED is true, and bpfConnectTimeLoadBalancing is not Disabled",
			"kubectl -n kube-system set env daemonset/calico-node FELIX_BPFCONNECTTIMELOADBALANCING=Disabled"}},
		{"Calico 3.28.5 bpfEnabled", felix(v1, "default", on), [2]string{}, ofCalico, []string{"felixconfigurations.crd.projectcalico.org default: spec.bpfEnabled is true",
			`kubectl patch felixconfigurations.crd.projectcalico.org default --type merge -p '{"spec":{"bpfConnectTimeLoadBalancing":"Disabled","bpfHostNetworkedNATWithoutCTLB":"Enabled"}}'`}},
		{"Calico 3.28.5 bpfEnabled and TCP", felix(v1, "default", on+", bpfConnectTimeLoadBalancing: TCP"), [2]string{}, ofCalico, []string{"spec.bpfConnectTimeLoadBalancing is TCP"}},
		{"Calico 3.28.5 without connect-time balancing", felix(v1, "default", on+", "+disabled), [2]string{"Disabled", "Enabled"}, ofCalico, nil},
		{"Calico 3.32.1 bpfEnabled, v3 CRDs", felix(v3, "default", on), [2]string{}, ofCalico, []string{"felixconfigurations.projectcalico.org default"}},
		{"Calico 3.30.7 of one node", felix(v1, "default", "bpfEnabled: false") + felix(v1, "node.a", on), [2]string{}, ofCalico, []string{
			"felixconfigurations.crd.projectcalico.org node.a: spec.bpfEnabled is true", "kubectl patch felixconfigurations.crd.projectcalico.org node.a"}},
		{"Calico 3.30.7 of a node like the others", felix(v1, "default", disabled) + felix(v1, "node.a", on), [2]string{"Disabled", "TCP"}, ofCalico, nil},
		{"Calico 3.30.7 overridden by environment", felix(v1, "default", on) + node("{name: FELIX_BPFENABLED, value: 'false'}"), [2]string{"value: 'false'", "value: 'true'"}, ofCalico, nil},
		{"Calico 3.32.1 custom-resources-bpf.yaml", operator, [2]string{}, ofCalico, []string{"Installation default: spec.calicoNetwork.linuxDataplane is BPF",
			"kubectl patch felixconfigurations default"}},
		{"Calico 3.32.1 of the operator without connect-time balancing", operator + felix(v1, "default", disabled), [2]string{"Disabled", "TCP"}, ofCalico, nil},
		{"Calico 3.32.1 custom-resources.yaml", strings.Replace(operator, "BPF", "Nftables", 1), [2]string{"Nftables", "BPF"}, ofCalico, nil},
	}
}

// TestConflictsOfWhatOthersInstall: every installation has its finding and no other, which names object, field and command.
func TestConflictsOfWhatOthersInstall(t *testing.T) {
	for _, row := range slices.Concat(ciliumRows(), calicoRows(), meshRows(), harmlessRows()) {
		t.Run(row.of, func(t *testing.T) {
			check, objects := row.check, row.objects
			if row.parts == nil {
				wantConflict(t, objects, "", nil)
				if row.but == [2]string{} {
					return
				}
				if objects = strings.Replace(objects, row.but[0], row.but[1], 1); objects == row.objects {
					t.Fatalf("%q is not in the objects", row.but[0])
				}
			}
			wantConflict(t, objects, check, row.parts)
		})
	}
}

func wantConflict(t *testing.T, objects, check string, parts []string) {
	t.Helper()
	found, unread := objectServer(t, objects).Conflicts(t.Context())
	if len(unread) > 0 {
		t.Errorf("unread: %q", unread)
	}
	met := check == ""
	for _, r := range conflictChecks(found).Checks {
		text := strings.Join(r.Details, "\n") + "\n" + r.Hint
		switch {
		case r.State == checkOK:
		case r.Check != check:
			t.Errorf("%q is %s: %s", r.Check, r.State, text)
		default:
			met = true
			for _, p := range parts {
				if !strings.Contains(text, p) {
					t.Errorf("it does not say %q:\n%s", p, text)
				}
			}
		}
	}
	if !met {
		t.Errorf("%q is fine", check)
	}
}
