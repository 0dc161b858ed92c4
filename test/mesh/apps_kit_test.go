package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/features"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

// The tests of apps_*_test.go run programs of Debian that know nothing of the mesh. Each has a lab of two nodes with a
// client on n1 and the same server twice: near on n1, far on n2. All traffic carries appsCanary, and a wiretap between
// the nodes looks for it.

const appsCanary = "apps-canary-4b1d9e-in-the-payload"

// appPod is one pod of a lab. Each of its ports is reached by the services <name>-v4 and <name>-v6, by the same number.
type appPod struct {
	name, node string
	plain      bool // outside the mesh: in namespace legacy instead of apps
	ports      []int
	command    []string // empty is a pod that only clients run in
}

func (p appPod) namespace() string {
	if p.plain {
		return "legacy"
	}
	return "apps"
}

func (p appPod) manifest() string {
	command := p.command
	if len(command) == 0 {
		command = []string{"sleep", "infinity"}
	}
	argv, _ := json.Marshal(command) // strings always marshal; JSON is YAML
	var b strings.Builder
	fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {app: %s}}\n", p.name, p.namespace(), p.name)
	fmt.Fprintf(&b, "spec:\n  nodeName: %s\n  serviceAccountName: %s\n  containers: [{name: app, image: debian, command: %s}]\n", p.node, p.name, argv)
	for family, suffix := range map[string]string{"IPv4": "v4", "IPv6": "v6"} {
		if len(p.ports) == 0 {
			break
		}
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: %s-%s, namespace: %s}\n", p.name, suffix, p.namespace())
		fmt.Fprintf(&b, "spec:\n  ipFamilies: [%s]\n  selector: {app: %s}\n  ports:\n", family, p.name)
		for _, port := range p.ports {
			fmt.Fprintf(&b, "  - {name: p%d, port: %d, targetPort: %d}\n", port, port, port)
		}
	}
	return b.String()
}

const appNodes = `
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: v1
kind: Namespace
metadata: {name: apps, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
`

// apps is a lab with such pods.
type apps struct {
	*labtest.Mesh
	info lab.Info
}

// appsUp makes the lab and waits until every pod listens on its ports.
func appsUp(t *testing.T, pods ...appPod) *apps {
	t.Helper()
	return appsOf(t, appNodes, pods)
}

// fastAppsUp is appsUp of apps whose connections between client and near are accelerated, unless the agents carry them or
// the kernel cannot: they must work the same.
func fastAppsUp(t *testing.T, pods ...appPod) *apps {
	t.Helper()
	const inMesh = "labels: {warren.dev/mesh: enabled}"
	return appsOf(t, strings.Replace(appNodes, inMesh, inMesh+`, annotations: {warren.dev/accelerate: "true"}`, 1), pods)
}

// checkAccelerated checks that what fastAppsUp says is so.
func (a *apps) checkAccelerated(t *testing.T) {
	t.Helper()
	const linux618 = 6<<16 | 18<<8
	if code, err := features.LinuxVersionCode(); err != nil || code < linux618 || labtest.CarriesSameNode() {
		t.Logf("nothing is accelerated here: kernel %#x, %v", code, err)
		return
	}
	a.AwaitFlow("the kernel accelerated", &adminv1.FlowsRequest{From: client, To: "apps/near", Last: 1000}, func(f *adminv1.Flow) bool {
		return f.Accelerated && f.BytesIn > 0 && f.BytesOut > 0
	})
}

func appsOf(t *testing.T, manifest string, pods []appPod) *apps {
	t.Helper()
	for _, p := range pods {
		manifest += p.manifest()
	}
	begin := time.Now()
	a := &apps{Mesh: labtest.Up(t, manifest)}
	info, err := a.Info()
	if err != nil {
		t.Fatal(err)
	}
	a.info = info
	for _, p := range pods {
		for _, port := range p.ports {
			pod := p.namespace() + "/" + p.name
			labtest.Await(t, fmt.Sprintf("%s listens on %d", pod, port), 20*time.Second, func() bool {
				return a.try(t, pod, "bash", "-c", fmt.Sprintf(": </dev/tcp/127.0.0.1/%d", port)).Code == 0
			})
		}
	}
	t.Logf("lab is up in %s", time.Since(begin).Round(time.Millisecond))
	return a
}

// pod returns a pod of namespace apps unless the name has another.
func (a *apps) pod(t *testing.T, name string) *lab.Pod {
	t.Helper()
	if !strings.Contains(name, "/") {
		name = "apps/" + name
	}
	for _, p := range a.info.Pods {
		if p.FullName() == name {
			return p
		}
	}
	t.Fatalf("there is no pod %s", name)
	return nil
}

// addr is a pod's address of a family.
func (a *apps) addr(t *testing.T, pod string, v6 bool) netip.Addr {
	t.Helper()
	return ofFamily(t, a.pod(t, pod).Addrs, v6)
}

func ofFamily(t *testing.T, addrs []netip.Addr, v6 bool) netip.Addr {
	t.Helper()
	for _, addr := range addrs {
		if addr.Is6() == v6 {
			return addr
		}
	}
	t.Fatalf("no address with v6=%v among %v", v6, addrs)
	return netip.Addr{}
}

// way is one way to name a server.
type way struct {
	server, how string
	host        string // as a command line takes it
	v6          bool   // of the connection's packets; a v4-mapped address is IPv4
}

// target is the server by this way, as host:port.
func (w way) target(port int) string { return net.JoinHostPort(w.host, strconv.Itoa(port)) }

func (w way) url(port int, path string) string { return "http://" + w.target(port) + path }

// ways lists all ways to name a server of namespace apps.
func (a *apps) ways(t *testing.T, server string) []way {
	t.Helper()
	ip4, ip6 := a.addr(t, server, false), a.addr(t, server, true)
	var vip netip.Addr
	for _, s := range a.info.Services {
		if s.FullName() == "apps/"+server+"-v4" {
			vip = ofFamily(t, s.VIPs, false)
		}
	}
	return append(a.names(server),
		way{server, "pod IPv4", ip4.String(), false},
		way{server, "pod IPv6", ip6.String(), true},
		way{server, "pod IPv4 mapped", "::ffff:" + ip4.String(), false},
		way{server, "service IPv4 mapped", "::ffff:" + vip.String(), false},
	)
}

// names lists the ways that go by name, one a family.
func (a *apps) names(server string) []way {
	return []way{
		{server, "service v4", server + "-v4.apps.svc.cluster.local", false},
		{server, "service v6", server + "-v6.apps.svc.cluster.local", true},
	}
}

// everyWay runs a case from the client to near and far, by all ways.
func (a *apps) everyWay(t *testing.T, f func(t *testing.T, w way)) {
	t.Helper()
	for _, server := range []string{"near", "far"} {
		for _, w := range a.ways(t, server) {
			t.Run(server+" by "+w.how, func(t *testing.T) { f(t, w) })
		}
	}
}

// bothFamilies runs a case from the client to near and far, by name, over both families.
func (a *apps) bothFamilies(t *testing.T, f func(t *testing.T, w way)) {
	t.Helper()
	for _, server := range []string{"near", "far"} {
		for _, w := range a.names(server) {
			t.Run(server+" by "+w.how, func(t *testing.T) { f(t, w) })
		}
	}
}

// client is where the clients of most cases run.
const client = "apps/client"

// try runs a command in a pod, at most 60 s, on behalf of a test or a subtest.
func (a *apps) try(t *testing.T, pod string, argv ...string) labtest.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code, err := a.Exec(ctx, pod, argv, lab.Stdio{Out: &out, Err: &errOut})
	if err != nil {
		t.Fatalf("%s in %s: %v\n%s%s", strings.Join(argv, " "), pod, err, out.String(), errOut.String())
	}
	return labtest.Result{Out: out.String(), Err: errOut.String(), Code: code}
}

// must is try for what must succeed.
func (a *apps) must(t *testing.T, pod string, argv ...string) string {
	t.Helper()
	r := a.try(t, pod, argv...)
	if r.Code != 0 {
		t.Fatalf("%s in %s: exit code %d\n%s%s", strings.Join(argv, " "), pod, r.Code, r.Out, r.Err)
	}
	return r.Out
}

// background runs a command in a pod until stop is called or the test ends; its output goes to out.
func (a *apps) background(t *testing.T, out io.Writer, pod string, argv ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = a.Exec(ctx, pod, argv, lab.Stdio{Out: out, Err: out}) // how it ends is what stop decides
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// timed says how long f took, in the log.
func timed(t *testing.T, what string, f func()) time.Duration {
	t.Helper()
	begin := time.Now()
	f()
	took := time.Since(begin)
	t.Logf("%s: %s", what, took.Round(time.Millisecond))
	return took
}

// needs fails the test if a program is missing, and says which package has it.
func needs(t *testing.T, program, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%s is missing: install %s", program, pkg)
	}
}

// workDir is a folder that the named user owns and can reach, which t.TempDir's are not. Call it before appsUp, so
// that it goes after the pods.
func workDir(t *testing.T, owner string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "warren-app")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u, err := user.Lookup(owner)
	if err != nil {
		t.Fatal(err)
	}
	uid, errU := strconv.Atoi(u.Uid)
	gid, errG := strconv.Atoi(u.Gid)
	if errU != nil || errG != nil {
		t.Fatalf("user %s has ids %s and %s", owner, u.Uid, u.Gid)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return dir
}
