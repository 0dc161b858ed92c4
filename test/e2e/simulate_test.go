package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/test/e2e/cluster"
)

const crowd = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: crowd}
spec:
  replicas: 150
  selector: {matchLabels: {app: crowd}}
  template:
    metadata: {labels: {app: crowd}}
    spec:
      nodeSelector: {warren.dev/simulated: ""}
      tolerations: [{key: warren.dev/simulated, operator: Exists}]
      containers: [{name: none, image: localhost/none:1}]
`

// TestSimulatedNodes: they take pods that ask for them, no others, and pods of theirs come and go.
func TestSimulatedNodes(t *testing.T) {
	k := up(t, "simulated", func(c *cluster.Config) { c.Nodes = 1 })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	start := time.Now()
	if err := k.Simulate(ctx, 30); err != nil {
		t.Fatal(err)
	}
	t.Logf("30 nodes Ready after %s", time.Since(start).Round(time.Millisecond))
	k.apply(crowd)
	k.kubectl("rollout", "status", "deployment/crowd", "--timeout=60s")
	t.Logf("150 pods Ready after %s", time.Since(start).Round(time.Millisecond))
	nodes := strings.Fields(k.kubectl("get", "pods", "-l", "app=crowd", "-o", "jsonpath={.items[*].spec.nodeName}"))
	used := map[string]int{}
	for _, n := range nodes {
		used[n]++
	}
	if len(nodes) != 150 || len(used) < 20 || used["node-a"] > 0 {
		t.Errorf("150 pods went to %v", used)
	}
	k.kubectl("run", "real", "--image=localhost/sample:1", "--image-pull-policy=Never", "--", "http")
	k.kubectl("wait", "pod/real", "--for=condition=Ready", "--timeout=20s")
	if on := k.kubectl("get", "pod", "real", "-o", "jsonpath={.spec.nodeName}"); on != "node-a" {
		t.Errorf("a pod that asked for nothing went to %s", on)
	}
	k.kubectl("scale", "deployment/crowd", "--replicas=0")
	await(t, "the simulated pods are gone", 30*time.Second, func() error {
		if left := k.kubectl("get", "pods", "-l", "app=crowd", "-o", "name"); left != "" {
			return errors.New(left)
		}
		return nil
	})
}
