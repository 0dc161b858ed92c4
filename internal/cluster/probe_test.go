package cluster

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/internal/release"
)

// TestProbeIsWhatAnAgentIs: the same image, rights and mounts, or its findings would say nothing of agents.
func TestProbeIsWhatAnAgentIs(t *testing.T) {
	manifests, _, err := release.Render(context.Background(), "warren-system", map[string]any{"image": map[string]any{"tag": "v9"}})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := agentSpec(manifests)
	if err != nil {
		t.Fatal(err)
	}
	pod := probePod(*spec, "node-x", "warren-system", []string{"/agentctl", "check"})
	agent, probe := spec.Containers[0], pod.Spec.Containers[0]
	if probe.Image != agent.Image || !strings.HasSuffix(probe.Image, ":v9") {
		t.Errorf("the image is %s, the agent's %s", probe.Image, agent.Image)
	}
	if !slices.Equal(probe.SecurityContext.Capabilities.Add, agent.SecurityContext.Capabilities.Add) || !pod.Spec.HostNetwork {
		t.Errorf("the rights are %+v", probe.SecurityContext)
	}
	if len(probe.VolumeMounts) != len(agent.VolumeMounts)-2 || len(pod.Spec.Volumes) != len(spec.Volumes)-2 {
		t.Errorf("it mounts %d of %d", len(probe.VolumeMounts), len(agent.VolumeMounts))
	}
	if pod.Spec.NodeName != "node-x" || pod.Spec.RestartPolicy != corev1.RestartPolicyNever || probe.LivenessProbe != nil {
		t.Errorf("the pod is %+v", pod.Spec)
	}
	if len(spec.Containers[0].Args) == 0 {
		t.Error("making a probe changed the agent's own spec")
	}
}

const twoContexts = `
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: one, context: {cluster: c, user: u, namespace: other}}, {name: two, context: {cluster: c, user: u}}]
`

func TestOpenChoosesTheContext(t *testing.T) {
	home := t.TempDir()
	getenv := func(k string) string { return map[string]string{"HOME": home}[k] }
	if _, err := Open(Target{Getenv: getenv}); err == nil || !strings.Contains(err.Error(), ErrNoKubeconfig.Error()) {
		t.Errorf("without a kubeconfig: %v", err)
	}
	file := filepath.Join(home, ".kube", "config")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(twoContexts), 0o600); err != nil {
		t.Fatal(err)
	}
	for context, want := range map[string]string{"": "one", "two": "two"} {
		c, err := Open(Target{Getenv: getenv, Context: context})
		if err != nil || c.Context != want || c.Namespace != "warren-system" {
			t.Errorf("context %q: %+v, %v", context, c, err)
		}
	}
	if _, err := Open(Target{Getenv: getenv, Context: "three"}); err == nil || !strings.Contains(err.Error(), `no context "three"; it has one, two`) {
		t.Errorf("an unknown context: %v", err)
	}
}
