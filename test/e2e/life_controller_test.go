package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

const controllers = "app.kubernetes.io/name=warren-controller"

// holder is the pod that the Lease names.
func (l life) holder() (string, error) {
	leases := l.Client.CoordinationV1().Leases(mesh.Namespace)
	lease, err := leases.Get(context.Background(), "warren-controller", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		return "", fmt.Errorf("the Lease names nobody: %v", err)
	}
	return *lease.Spec.HolderIdentity, nil
}

// leader waits until exactly one replica serves, the Lease names it, and the Service leads to it alone.
func (l life) leader(d time.Duration) (pod corev1.Pod) {
	l.t.Helper()
	mesh.Await(l.t, "one replica leads", d, func() (err error) {
		pod, err = l.leaderNow()
		return err
	})
	return pod
}

func (l life) leaderNow() (leader corev1.Pod, err error) {
	name, err := l.holder()
	if err != nil {
		return leader, err
	}
	var serving []string
	for _, p := range l.pods(mesh.Namespace, controllers) {
		if p.Status.PodIP == "" {
			continue
		}
		metrics, err := l.metrics(p)
		if err != nil {
			return leader, err
		}
		if strings.Contains(metrics, "warren_ca_") || strings.Contains(metrics, "warren_controller_agents_connected") {
			serving = append(serving, p.Name)
			leader = p
		}
	}
	if len(serving) != 1 || serving[0] != name {
		return leader, fmt.Errorf("the Lease names %s, and those that serve are %v", name, serving)
	}
	slices := l.Client.DiscoveryV1().EndpointSlices(mesh.Namespace)
	slice, err := slices.Get(context.Background(), "warren-controller-leader", metav1.GetOptions{})
	if err != nil {
		return leader, err
	}
	if len(slice.Endpoints) != 1 || slice.Endpoints[0].Addresses[0] != leader.Status.PodIP {
		return leader, fmt.Errorf("the Service leads to %v, and the leader has %s", slice.Endpoints, leader.Status.PodIP)
	}
	return leader, nil
}

// metrics are a replica's; one that waits to lead has none.
func (l life) metrics(p corev1.Pod) (string, error) {
	rc, err := l.RestConfig()
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DialContext: rc.Dial, DisableKeepAlives: true}
	client := &http.Client{Timeout: 3 * time.Second, Transport: transport}
	reply, err := client.Get("http://" + p.Status.PodIP + ":15014/metrics")
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	if reply.StatusCode == http.StatusNotFound {
		return "", nil
	}
	raw, err := io.ReadAll(reply.Body)
	return string(raw), err
}

// fresh is a pod that starts now, in both namespaces, and is in the mesh in one of them.
func (l life) fresh() {
	l.t.Helper()
	l.towns("scale", "deployment/server", "--replicas=3")
	l.settled()
	l.towns("scale", "deployment/server", "--replicas=2")
	l.awaitGone()
}

// leaderGoes: another replica leads at once, agents follow it, and nobody's traffic notices.
func (l life) leaderGoes() {
	all := l.startLoads()
	before := l.leader(20 * time.Second)
	from, start := all.mark(), time.Now()
	l.Kubectl("delete", "pod", before.Name, "--namespace", mesh.Namespace, "--wait=false")
	mesh.Await(l.t, "the Lease names another replica", 10*time.Second, func() error {
		if name, err := l.holder(); err != nil || name == before.Name || name == "" {
			return fmt.Errorf("it names %q: %v", name, err)
		}
		return nil
	})
	l.t.Logf("another replica has the Lease after %s", time.Since(start).Round(10*time.Millisecond))
	l.leader(30 * time.Second)
	l.awaitWhole(30 * time.Second)
	l.fresh()
	l.compare("the leader goes", all, from)
}

// leaderDies: a leader that hangs is followed by another when its lease is over, and does not lead when it comes to.
func (l life) leaderDies() {
	all := l.startLoads()
	before := l.leader(20 * time.Second)
	from, start := all.mark(), time.Now()
	node := l.Node(before.Spec.NodeName)
	l.signal(node, "controller", "STOP")
	mesh.Await(l.t, "the Lease names another replica", 20*time.Second, func() error {
		if name, err := l.holder(); err != nil || name == before.Name || name == "" {
			return fmt.Errorf("it names %q: %v", name, err)
		}
		return nil
	})
	l.t.Logf("another replica has the Lease after %s", time.Since(start).Round(10*time.Millisecond))
	l.awaitWhole(45 * time.Second)
	l.signal(node, "controller", "CONT")
	if after := l.leader(30 * time.Second); after.Name == before.Name {
		l.t.Errorf("%s came to and leads again although another replica led", before.Name)
	}
	l.awaitWhole(30 * time.Second)
	l.compare("the leader hangs", all, from)
}

// noController: traffic goes on; pods outside the mesh start; a pod of the mesh waits, says why, and starts when
// somebody knows it.
func (l life) noController() {
	all := l.startLoads()
	from, start := all.mark(), time.Now()
	l.Kubectl("scale", "--namespace", mesh.Namespace, "deployment/warren-controller", "--replicas=0")
	mesh.Await(l.t, "no controller runs", 40*time.Second, func() error {
		if left := l.Kubectl("get", "pods", "--namespace", mesh.Namespace, "-l", controllers, "-o", "name"); left != "" {
			return errors.New(left)
		}
		return nil
	})
	if _, err := l.TryAgentctl("status", "--request-timeout=5s"); err == nil || !strings.Contains(err.Error(), "controller") {
		l.t.Errorf("agentctl status without a controller: %v", err)
	} else {
		l.t.Logf("agentctl status without a controller: %v", err)
	}
	l.towns("scale", "deployment/server", "--replicas=4")
	l.Kubectl("rollout", "status", "--namespace", outMesh, "deployment/server", "--timeout=60s")
	l.t.Logf("pods outside the mesh started without a controller")
	const text = "nobody knows yet whether it is in the mesh"
	mesh.Await(l.t, "an event that says why a pod of the mesh waits", 60*time.Second, func() error {
		out := l.Kubectl("get", "events", "--namespace", inMesh, "-o", "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}")
		if !strings.Contains(out, text) {
			return fmt.Errorf("no event of %s says %q", inMesh, text)
		}
		return nil
	})
	if longer := longOr(0, time.Minute) - time.Since(start); longer > 0 {
		time.Sleep(longer)
	}
	l.compare(fmt.Sprintf("no controller for %s", time.Since(start).Round(time.Second)), all, from)
	l.Kubectl("scale", "--namespace", mesh.Namespace, "deployment/warren-controller", "--replicas=2")
	l.Kubectl("rollout", "status", "--namespace", mesh.Namespace, "deployment/warren-controller", "--timeout=60s")
	l.settled()
	l.awaitWhole(30 * time.Second)
	l.towns("scale", "deployment/server", "--replicas=2")
	l.awaitGone()
	l.compare("no controller, and controllers again", all, from)
}

// longOr is a time that tests take only with WARREN_E2E_LONG=1.
func longOr(short, long time.Duration) time.Duration {
	if os.Getenv("WARREN_E2E_LONG") == "1" {
		return long
	}
	return short
}

// noAPIServer: traffic goes on, the leader goes on signing, and when the API server is back there is one leader.
func (l life) noAPIServer() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	all := l.startLoads()
	leader := l.leader(20 * time.Second)
	node := l.ca(leader, l.nodeSVID("node-a"))
	uid := string(l.podOn(inMesh, "app=asker", "node-a").UID)
	from, start := all.mark(), time.Now()
	if err := l.ControlPlane().StopAPIServer(ctx); err != nil {
		l.t.Fatal(err)
	}
	defer func() { // once more if the test ended before
		if l.t.Failed() {
			_ = l.ControlPlane().StartAPIServer(context.Background())
		}
	}()
	if _, err := l.TryAgentctl("status", "--request-timeout=3s"); err == nil || !strings.Contains(err.Error(), "API server") {
		l.t.Errorf("agentctl status without an API server: %v", err)
	}
	time.Sleep(2 * time.Minute) // far longer than the lease
	if _, err := node.SignWorkload(ctx, &cav1.SignWorkloadRequest{WorkloadUid: uid, Csr: l.csr()}); err != nil {
		l.t.Errorf("the leader signs no more after %s without an API server: %v", time.Since(start).Round(time.Second), err)
	}
	l.compare(fmt.Sprintf("no API server for %s", time.Since(start).Round(time.Second)), all, from)
	if err := l.ControlPlane().StartAPIServer(ctx); err != nil {
		l.t.Fatal(err)
	}
	if err := l.AwaitNodes(ctx); err != nil {
		l.t.Fatal(err)
	}
	after := l.leader(60 * time.Second)
	l.t.Logf("the leader was %s, and is %s", leader.Name, after.Name)
	l.awaitWhole(60 * time.Second)
	l.awaitKubernetes()
	l.fresh()
	l.compare("no API server, and one again", all, from)
}

// awaitKubernetes waits until Kubernetes makes pods again, on both nodes. While there is no API server whoever waits for it asks
// less and less often, up to once a minute.
func (l life) awaitKubernetes() {
	l.t.Helper()
	start := time.Now()
	l.Kubectl("scale", "--namespace", outMesh, "deployment/server", "--replicas=4")
	mesh.Await(l.t, "new pods of a deployment are ready", 4*time.Minute, func() error {
		n := 0
		for _, p := range l.pods(outMesh, "app=server") {
			if ready(p) {
				n++
			}
		}
		if n < 4 {
			return fmt.Errorf("%d of 4 are", n)
		}
		return nil
	})
	l.t.Logf("Kubernetes' controllers act again after %s", time.Since(start).Round(100*time.Millisecond))
}
