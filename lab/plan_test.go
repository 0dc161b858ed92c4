package lab

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func planOf(t *testing.T, text string) (*plan, error) {
	t.Helper()
	objects, err := parseManifest("lab.yaml", []byte(text))
	if err != nil {
		return nil, err
	}
	return makePlan(objects, nil)
}

const onePod = `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: warren.dev/sample}]}
`

func TestBadManifestsAreNamedByFileObjectAndField(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"no kind":        {"metadata: {name: x}", []string{"lab.yaml:1", "kind"}},
		"not YAML":       {"a: [", []string{"lab.yaml:1"}},
		"second":         {"kind: Namespace\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {name: p}\nspec: {}", []string{"lab.yaml:4", "Pod default/p", "spec.containers"}},
		"bad name":       {"kind: Namespace\nmetadata: {name: A_B}", []string{"Namespace A_B", "metadata.name"}},
		"twice":          {onePod + "---" + onePod, []string{"Pod default/p", "lab.yaml:1"}},
		"no namespace":   {strings.Replace(onePod, "name: p", "name: p, namespace: shop", 1), []string{"Pod shop/p", "metadata.namespace", `"shop"`}},
		"no node":        {strings.Replace(onePod, "spec: {", "spec: {nodeName: n9, ", 1), []string{"Pod default/p", "spec.nodeName", "n9"}},
		"image only":     {strings.Replace(onePod, "warren.dev/sample", "nginx", 1), []string{"spec.containers[0].command", "nginx"}},
		"deployment":     {"kind: Deployment\nmetadata: {name: web}", []string{"Deployment web", "Pods"}},
		"bad CIDR":       {"kind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.0.0.1/24}", []string{"Node n1", "spec.podCIDRs[0]", "10.0.0.1/24"}},
		"overlap":        {"kind: Node\nmetadata: {name: a}\nspec: {podCIDR: 10.1.0.0/16}\n---\nkind: Node\nmetadata: {name: b}\nspec: {podCIDR: 10.1.2.0/24}", []string{"Node b", "overlaps", "node a"}},
		"mapped address": {strings.Replace(onePod, "name: p", `name: p, annotations: {warren.dev/lab-addresses: "::ffff:10.0.0.1"}`, 1), []string{"lab-addresses", "::ffff:10.0.0.1"}},
		"bad ipv6":       {strings.Replace(onePod, "name: p", `name: p, annotations: {warren.dev/lab-ipv6: "no"}`, 1), []string{"lab-ipv6", `"no"`}},
		"same address":   {onePod + "---" + strings.Replace(onePod, "name: p", `name: q, annotations: {warren.dev/lab-addresses: "10.77.1.2"}`, 1), []string{"10.77.1.2", "default/p", "default/q"}},
		"bad VIP":        {"kind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.0.0, ports: [{port: 80}]}", []string{"Service default/s", "10.0.0"}},
		"no port":        {"kind: Service\nmetadata: {name: s}\nspec: {ports: [{name: http}]}", []string{"Service default/s", "spec.ports", "port: missing"}},
		"port too big":   {"kind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 70000}]}", []string{"Service default/s", "spec"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := planOf(t, c.text)
			if !errors.Is(err, ErrManifest) {
				t.Fatalf("got %v, want ErrManifest", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want it to name %q", err, want)
				}
			}
		})
	}
}

func TestPlanIsTheSameEveryTime(t *testing.T) {
	const text = "kind: Node\nmetadata: {name: a}\n---\nkind: Node\nmetadata: {name: b}\n---" + onePod
	more := text
	for _, name := range []string{"q", "r", "s"} {
		more += "---" + strings.Replace(onePod, "name: p", "name: "+name+", uid: u-"+name, 1)
	}
	more += "---\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 80}]}\n"
	first, err := planOf(t, more)
	if err != nil {
		t.Fatal(err)
	}
	nodes := []string{}
	for _, p := range first.Pods {
		nodes = append(nodes, p.Node)
	}
	if want := []string{"a", "b", "a", "b"}; !reflect.DeepEqual(nodes, want) {
		t.Errorf("pods are on %v, want %v", nodes, want)
	}
	second, err := planOf(t, more)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := first.Services[0].VIPs, second.Services[0].VIPs; !reflect.DeepEqual(a, b) || len(a) != 2 {
		t.Errorf("the service has %v, then %v; want the same two", a, b)
	}
	if !serviceCIDR4.Contains(first.Services[0].VIPs[0]) || !serviceCIDR6.Contains(first.Services[0].VIPs[1]) {
		t.Errorf("the service has %v, which is outside the service networks", first.Services[0].VIPs)
	}
}

func TestServiceFamiliesAndGivenAddresses(t *testing.T) {
	for spec, want := range map[string]string{
		"{ports: [{port: 1}], clusterIP: 10.96.3.4}":                    "10.96.3.4",
		"{ports: [{port: 1}], clusterIPs: ['10.96.3.4', 'fd00:96::9']}": "10.96.3.4 fd00:96::9",
		"{ports: [{port: 1}], clusterIP: None}":                         "",
	} {
		p, err := planOf(t, "kind: Service\nmetadata: {name: s}\nspec: "+spec)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(texts(p.Services[0].VIPs), " "); got != want {
			t.Errorf("%s: %q, want %q", spec, got, want)
		}
	}
	p, err := planOf(t, "kind: Service\nmetadata: {name: s}\nspec: {ipFamilies: [IPv6], ports: [{port: 1}]}")
	if err != nil || len(p.Services[0].VIPs) != 1 || !p.Services[0].VIPs[0].Is6() {
		t.Errorf("an IPv6 service: %+v, %v", p, err)
	}
}

func TestNodeWithoutRoomIsAnError(t *testing.T) {
	text := "kind: Node\nmetadata: {name: a}\nspec: {podCIDR: 10.1.0.0/29}\n"
	for _, name := range []string{"a", "b", "c", "d", "e"} { // 10.1.0.2 to 10.1.0.6
		text += "---" + strings.Replace(onePod, "name: p", "name: "+name, 1)
	}
	if _, err := planOf(t, text); err != nil {
		t.Fatalf("five pods in a /29: %v", err)
	}
	if _, err := planOf(t, text+"---"+onePod); !errors.Is(err, ErrManifest) {
		t.Errorf("six pods in a /29: %v, want ErrManifest", err)
	}
}

func TestNthAddr(t *testing.T) {
	for _, c := range []struct {
		prefix string
		n      int
		want   string
	}{
		{"10.77.1.0/24", 2, "10.77.1.2"}, {"10.77.1.0/24", 254, "10.77.1.254"}, {"10.77.1.0/24", 255, ""}, {"10.77.0.0/16", 256, "10.77.1.0"},
		{"255.255.255.0/24", 300, ""}, {"fd77::/64", 2, "fd77::2"}, {"fd77::/120", 255, "fd77::ff"}, {"fd77::/120", 256, ""},
	} {
		got, ok := nthAddr(netip.MustParsePrefix(c.prefix), c.n)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("address %d of %s is %v, %v; want %q", c.n, c.prefix, got, ok, c.want)
		}
	}
}

func TestFoldersAreReadAsTheControllerReadsThem(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.yaml": "kind: Namespace\nmetadata: {name: b}", "sub/a.yml": "kind: Namespace\nmetadata: {name: a}",
		"c.json":       `{"kind": "List", "items": [{"kind": "Namespace", "metadata": {"name": "c"}}]}`,
		".hidden.yaml": "kind: [", ".git/x.yaml": "kind: [", "README.md": "kind: [", "empty.yaml": "# nothing\n---\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	objects, err := readManifests(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := ""
	for _, o := range objects {
		names += o.Metadata.Name
	}
	if names != "bca" {
		t.Errorf("read %q, want b, c and a", names)
	}
}

func TestEnvironmentExpands(t *testing.T) {
	pod := &Pod{Namespace: "shop", Name: "web", Addrs: []netip.Addr{netip.MustParseAddr("10.77.1.2")}}
	p, err := planOf(t, strings.Replace(onePod, "image: warren.dev/sample", `image: warren.dev/sample:x, args: ["$(A) $(B) $$(A) $(MISSING) $"], env: [{name: A, value: one}, {name: B, value: "$(A)-two"}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]`, 1))
	if err != nil {
		t.Fatal(err)
	}
	c := &p.Pods[0].Containers[0]
	env, err := processEnv(pod, c, "/opt")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.argv("/opt", env); !reflect.DeepEqual(got, []string{"/opt/sample", "one one-two $(A) $(MISSING) $"}) {
		t.Errorf("argv is %q", got)
	}
	if last := env[len(env)-1]; last != "IP=10.77.1.2" {
		t.Errorf("the pod's address arrives as %q", last)
	}
}
