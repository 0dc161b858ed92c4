package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// towns runs kubectl for both namespaces.
func (l life) towns(args ...string) {
	l.t.Helper()
	for _, ns := range []string{inMesh, outMesh} {
		l.Kubectl(append(args, "--namespace", ns)...)
	}
}

// rollouts: 2 → 40 → 2 and a new version of everything cost no request, as they cost none without a mesh.
func (l life) rollouts() {
	all := l.startLoads()
	for _, step := range []struct {
		what string
		do   []string
	}{
		{"scale up to 40", []string{"scale", "deployment/server", "--replicas=40"}},
		{"scale down to 2", []string{"scale", "deployment/server", "--replicas=2"}},
		{"roll out", []string{"rollout", "restart", "deployment/server"}},
	} {
		from, start := all.mark(), time.Now()
		l.towns(step.do...)
		l.towns("rollout", "status", "deployment/server", "--timeout=120s")
		l.awaitGone()
		l.compare(fmt.Sprintf("%s, which took %s", step.what, time.Since(start).Round(time.Second)), all, from)
	}
}

// awaitGone waits until no server is on its way out.
func (l life) awaitGone() {
	l.t.Helper()
	mesh.Await(l.t, "servers that were told to go are gone", time.Minute, func() error {
		for _, ns := range []string{inMesh, outMesh} {
			list, err := l.Client.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{LabelSelector: "app=server"})
			if err != nil {
				return err
			}
			for _, p := range list.Items {
				if p.DeletionTimestamp != nil {
					return fmt.Errorf("%s/%s is there", ns, p.Name)
				}
			}
		}
		return nil
	})
}

// churn deletes servers at a steady rate: first as one does, so that no request may fail; then by force, so that the
// mesh must find another endpoint before a first byte was sent.
func (l life) churn() {
	l.towns("scale", "deployment/server", "--replicas=6")
	l.settled()
	all := l.startLoads()
	for _, row := range []struct {
		what  string
		grace []string
		fewer int // of the requests that are under way when a pod dies, by chance, more may be the mesh's
	}{{"churn of one pod a second", nil, 2}, {"churn by force", []string{"--grace-period=0", "--force"}, 5}} {
		from := all.mark()
		for range 15 {
			for _, ns := range []string{inMesh, outMesh} {
				l.awaitOthers(ns)
				oldest := l.oldest(ns)
				l.Kubectl(append([]string{"delete", "pod", oldest.Name, "--wait=false", "--namespace", ns}, row.grace...)...)
			}
			time.Sleep(time.Second)
		}
		l.towns("rollout", "status", "deployment/server", "--timeout=60s")
		l.awaitGone()
		l.compareBut(row.what, all, from, row.fewer)
	}
	all.stopAll()
	l.towns("scale", "deployment/server", "--replicas=2")
	l.settled()
	l.awaitGone()
}

// awaitOthers waits until enough servers are ready for one to go: a machine that makes less than one a second would run out
// of them, which the mesh hears before kube-proxy.
func (l life) awaitOthers(ns string) {
	l.t.Helper()
	mesh.Await(l.t, "four ready servers in "+ns, 30*time.Second, func() error {
		serve := 0
		for _, p := range l.pods(ns, "app=server") {
			if p.DeletionTimestamp == nil && ready(p) {
				serve++
			}
		}
		if serve < 4 {
			return fmt.Errorf("%d are", serve)
		}
		return nil
	})
}

// oldest returns the server that has been there longest and is not going.
func (l life) oldest(ns string) (oldest corev1.Pod) {
	l.t.Helper()
	for _, p := range l.pods(ns, "app=server") {
		if oldest.Name == "" || p.CreationTimestamp.Before(&oldest.CreationTimestamp) {
			oldest = p
		}
	}
	return oldest
}

// crowdPod is a pod of a simulated node, in the mesh by its namespace.
const crowdPod = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: crowd}
spec:
  replicas: 100
  selector: {matchLabels: {app: crowd}}
  template:
    metadata: {labels: {app: crowd}}
    spec:
      nodeSelector: {warren.dev/simulated: ""}
      tolerations: [{key: warren.dev/simulated, operator: Exists}]
      terminationGracePeriodSeconds: 0
      containers: [{name: none, image: localhost/none:1}]
---
apiVersion: v1
kind: Service
metadata: {name: crowd}
spec: {selector: {app: crowd}, ports: [{port: 80}]}
`

// simulatedChurn: 20 pods a second go and come in the mesh's own namespace, on nodes that are simulated, so that what
// every change costs is the controller's and the agents' work and not the containers'. Nobody's request may suffer.
func (l life) simulatedChurn() {
	const rate, seconds = 20, 15
	const patience = time.Minute // a machine that makes fewer pods a second takes longer to make as many
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := l.Simulate(ctx, 10); err != nil {
		l.t.Fatal(err)
	}
	l.Namespace("crowded", mesh.Enabled)
	l.Apply("crowded", crowdPod)
	l.Kubectl("rollout", "status", "--namespace=crowded", "deployment/crowd", "--timeout=60s")
	all := l.startLoads()
	from, start, deleted := all.mark(), time.Now(), 0
	for tick := time.NewTicker(time.Second); deleted < rate*seconds && time.Since(start) < patience; <-tick.C {
		pods := l.pods("crowded", "app=crowd")
		deleted += l.deleteAll(ctx, pods[:min(rate, len(pods))])
	}
	l.compare(fmt.Sprintf("%d pods deleted and made again in %s", deleted, time.Since(start).Round(time.Second)), all, from)
	if deleted < rate*seconds {
		l.t.Errorf("only %d pods of %d were deleted in %s", deleted, rate*seconds, patience)
	}
	all.stopAll()
	l.Kubectl("delete", "namespace", "crowded", "--wait=false")
	l.Kubectl("delete", "nodes", "-l", "warren.dev/simulated")
}

// deleteAll deletes pods at once and returns how many were there.
func (l life) deleteAll(ctx context.Context, pods []corev1.Pod) int {
	var gone atomic.Int64
	var all sync.WaitGroup
	now := int64(0)
	for _, p := range pods {
		all.Go(func() {
			if l.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}) == nil {
				gone.Add(1)
			}
		})
	}
	all.Wait()
	return int(gone.Load())
}
