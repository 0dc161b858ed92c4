package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// nodeReboots: everything that the kernel held is gone, pods come back with other addresses, and nobody is served under
// an identity that its address had before.
func (l life) nodeReboots() {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	b, from := l.Node("node-b"), l.podOn(inMesh, "app=asker", "node-a")
	before := l.podOn(inMesh, "app=asker", "node-b")
	if err := b.Kill(ctx); err != nil {
		l.t.Fatal(err)
	}
	l.awaitProblem("node-b")
	start := time.Now()
	if err := b.Start(ctx); err != nil {
		l.t.Fatal(err)
	}
	if err := l.AwaitNodes(ctx); err != nil {
		l.t.Fatal(err)
	}
	mesh.Await(l.t, "the pods of node-b have new addresses", time.Minute, func() error {
		now := l.podOn(inMesh, "app=asker", "node-b")
		if now.UID != before.UID || now.Status.PodIP == before.Status.PodIP || !ready(now) {
			return fmt.Errorf("%s has %s, ready %t", now.Name, now.Status.PodIP, ready(now))
		}
		return nil
	})
	l.settled()
	l.awaitWhole(60 * time.Second)
	l.t.Logf("every pod of node-b is back in the mesh %s after it was switched on",
		time.Since(start).Round(100*time.Millisecond))
	after := l.podOn(inMesh, "app=asker", "node-b")
	l.knows(from, after)
	l.oldAddress(from, before.Status.PodIP)
}

// awaitProblem waits until agentctl status says that something is wrong with a node.
func (l life) awaitProblem(node string) {
	l.t.Helper()
	mesh.Await(l.t, "agentctl status names a problem of "+node, 60*time.Second, func() error {
		s, err := l.statusNow()
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			if p.Node == node || strings.Contains(p.Subject, node) {
				return nil
			}
		}
		return fmt.Errorf("problems: %v", s.Problems)
	})
}

// knows: a pod reaches another by mutual TLS under that pod's identity.
func (l life) knows(from, to corev1.Pod) {
	l.t.Helper()
	mesh.Await(l.t, from.Name+" reaches "+to.Name, 10*time.Second, func() error {
		echo, err := l.Get(inMesh, from.Name, "http://"+to.Status.PodIP+":8080/"+lifeWord)
		if err == nil && echo.Host != to.Name {
			err = fmt.Errorf("%s answered", echo.Host)
		}
		return err
	})
	l.AwaitFlow("a connection by mutual TLS to "+to.Name, func(f *adminv1.Flow) string {
		if f.Dst.GetWorkload() != to.Name || f.Security != "mtls" {
			return "it is another"
		}
		return ""
	}, "--namespace", inMesh)
}

// oldAddress: whoever has the address now is not taken for who had it. As long as nobody has it nobody answers.
func (l life) oldAddress(from corev1.Pod, old string) {
	l.t.Helper()
	owner := ""
	for _, ns := range []string{inMesh, outMesh, "kube-system", mesh.Namespace} {
		for _, p := range l.pods(ns, "") {
			if p.Status.PodIP == old {
				owner = p.Name
			}
		}
	}
	echo, err := l.Get(inMesh, from.Name, "http://"+old+":8080/"+lifeWord)
	if err == nil && echo.Host != owner {
		l.t.Errorf("at %s, which %q has now, %s answered", old, owner, echo.Host)
	}
	l.t.Logf("the old address %s is %q's now; asking it: %v", old, owner, err)
}

// uninstall leaves nothing: pods run on and talk as if there had been no mesh, and nodes are as they were. Then it is
// installed again.
func (l life) uninstall(chains map[string]string) {
	all := l.startLoads()
	nodes := l.Nodes()
	outside := l.startStream(outMesh, nodes[0], nodes[1])
	before, from := l.containers(), all.mark()
	l.t.Log(l.Agentctl("uninstall", "--yes"))
	l.settledNodes(chains)
	if now := l.containers(); !maps.Equal(before, now) {
		l.t.Errorf("containers of apps before: %v; after: %v", before, now)
	}
	l.awaitServed(all, inMesh, servedAgain)
	l.compare("the mesh is taken away", all, from)
	if !outside.lived() {
		l.t.Error("a connection outside the mesh was cut")
	}
	l.nothingLeft()
	l.plain(nodes)
	l.Agentctl(append([]string{"install"}, l.Product.Settings()...)...)
	l.settled()
	l.awaitWhole(30 * time.Second)
	l.knows(l.podOn(inMesh, "app=asker", "node-a"), l.podOn(inMesh, "app=asker", "node-b"))
	l.Agentctl("uninstall", "--yes", "--crds")
	l.settledNodes(chains)
	if out := l.Kubectl("get", "crds", "-o", "name"); strings.Contains(out, "warren.dev") {
		l.t.Errorf("CRDs stay although they were not wanted any more: %s", out)
	}
	if out := l.Kubectl("get", "namespaces", "-o", "name"); strings.Contains(out, mesh.Namespace) {
		l.t.Errorf("the namespace stays: %s", out)
	}
}

// containers are the ids of every app's containers.
func (l life) containers() map[string]string {
	l.t.Helper()
	out := map[string]string{}
	for _, ns := range []string{inMesh, outMesh} {
		for _, p := range l.pods(ns, "") {
			out[ns+"/"+p.Name] = p.Status.ContainerStatuses[0].ContainerID
		}
	}
	return out
}

// settledNodes: nothing is left on any node.
func (l life) settledNodes(chains map[string]string) {
	l.t.Helper()
	for _, n := range l.Nodes() {
		mesh.Await(l.t, "nothing is left on "+n.Name, 20*time.Second, func() error { return l.leftOn(n, chains[n.Name]) })
	}
}

func (l life) leftOn(n *cluster.Node, chain string) error {
	var errs []error
	raw, err := os.ReadFile(filepath.Join(n.Dir(), "etc-cni/net.d/10-pods.conflist"))
	if err != nil || string(raw) != chain {
		errs = append(errs, fmt.Errorf("the CNI chain is not what it was: %v\n%s", err, raw))
	}
	for _, dir := range []string{"etc-cni/net.d", "opt-cni/bin"} {
		names, err := os.ReadDir(filepath.Join(n.Dir(), dir))
		errs = append(errs, err)
		for _, f := range names {
			if strings.Contains(f.Name(), "warren") {
				errs = append(errs, fmt.Errorf("%s/%s is there", dir, f.Name()))
			}
		}
	}
	out, err := n.Exec(context.Background(), "sh", "-c", "find /sys/fs/bpf/warren /run/warren -mindepth 1 2>/dev/null; true")
	if err != nil || strings.TrimSpace(out) != "" {
		errs = append(errs, fmt.Errorf("left in /sys/fs/bpf/warren and /run/warren: %s %w", strings.Fields(out), err))
	}
	out, err = n.Exec(context.Background(), "sh", "-c", "pgrep -x agent; true")
	if err != nil || strings.TrimSpace(out) != "" {
		errs = append(errs, fmt.Errorf("an agent runs: %s %w", out, err))
	}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}

// nothingLeft: of the product's objects only the CRDs stay.
func (l life) nothingLeft() {
	l.t.Helper()
	kinds := "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,namespaces"
	out := l.Kubectl("get", kinds, "-o", "name")
	for line := range strings.Lines(out) {
		if strings.Contains(line, "warren") {
			l.t.Errorf("left in the cluster: %s", line)
		}
	}
	if out := l.Kubectl("get", "crds", "-o", "name"); !strings.Contains(out, "authorizationpolicies.warren.dev") {
		l.t.Errorf("the CRDs, and every policy with them, were deleted unasked: %s", out)
	}
}

// plain: pods that were in the mesh talk in the clear, and a pod that starts now does too.
func (l life) plain(nodes []*cluster.Node) {
	l.t.Helper()
	const word = "out-of-the-mesh"
	heard := l.Listen(word)
	from, to := l.podOn(inMesh, "app=asker", nodes[0].Name), l.podOn(inMesh, "app=asker", nodes[1].Name)
	if _, err := l.Get(inMesh, from.Name, "http://"+to.Status.PodIP+":8080/"+word); err != nil {
		l.t.Errorf("between pods that were in the mesh: %v", err)
	}
	mesh.Await(l.t, "what they say is readable between nodes", 5*time.Second, func() error {
		if heard.Readable.Load() == 0 {
			return errors.New("nothing was")
		}
		return nil
	})
	l.Kubectl("scale", "--namespace", inMesh, "deployment/server", "--replicas=3")
	l.Kubectl("rollout", "status", "--namespace", inMesh, "deployment/server", "--timeout=60s")
}
