package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/controller/manifest"
)

// InMesh is the condition on every pod that is meant to be in the mesh, or was: True once its connections are captured and
// served, False with the reason otherwise.
const InMesh corev1.PodConditionType = "warren.dev/InMesh"

// Pods returns every pod as the API server has it. Callers must not change them.
func (c *Cluster) Pods() (out []*manifest.Object) {
	for _, s := range c.source.stores {
		if s.kind != manifest.KindPod {
			continue
		}
		s.mu.Lock()
		for _, o := range s.objects {
			out = append(out, o)
		}
		s.mu.Unlock()
	}
	return out
}

// SetInMesh writes a pod's condition. transition says that its status is another one than before. A pod that is gone
// meanwhile is no error.
func (c *Cluster) SetInMesh(ctx context.Context, pod manifest.Key, condition manifest.Condition, transition bool) error {
	now := map[string]string{
		"type": string(InMesh), "status": condition.Status, "reason": condition.Reason, "message": condition.Message,
	}
	if transition {
		now["lastTransitionTime"] = time.Now().UTC().Format(time.RFC3339)
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []any{now}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the condition of %s: %w", pod, err)
	}
	return nil
}
