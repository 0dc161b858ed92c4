package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Keys of MeshConfig. Whoever takes the mesh away sets keyState to StateLeaving; the leader answers in keyLeft.
const (
	keyState     = "state"
	keyLeft      = "left"
	StateLeaving = "leaving"
	// LeftMore stands in keyLeft before what is not done yet.
	LeftMore = "; "
)

// meshConfig follows MeshConfig. It is the store of a reflector of that one object.
type meshConfig struct {
	leaving atomic.Bool
	changed func()
}

func (m *meshConfig) follow(c *Cluster) *cache.Reflector {
	lw := cache.NewListWatchFromClient(c.client.CoreV1().RESTClient(), "configmaps", c.cfg.Namespace,
		fields.OneTermEqualSelector("metadata.name", MeshConfig))
	return cache.NewReflectorWithOptions(lw, &corev1.ConfigMap{}, m, cache.ReflectorOptions{Name: MeshConfig})
}

func (m *meshConfig) set(leaving bool) {
	if m.leaving.Swap(leaving) != leaving {
		m.changed()
	}
}

// Add implements cache.ReflectorStore.
func (m *meshConfig) Add(obj any) error { return m.Update(obj) }

// Update implements cache.ReflectorStore.
func (m *meshConfig) Update(obj any) error {
	config, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return fmt.Errorf("watch %s: got a %T", MeshConfig, obj)
	}
	m.set(config.Data[keyState] == StateLeaving)
	return nil
}

// Delete implements cache.ReflectorStore. A mesh whose settings were deleted goes on as it is: taking it away is asked
// for in words.
func (m *meshConfig) Delete(any) error { return nil }

// Replace implements cache.ReflectorStore.
func (m *meshConfig) Replace(list []any, _ string) error {
	for _, obj := range list {
		if err := m.Update(obj); err != nil {
			return err
		}
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (m *meshConfig) Resync() error { return nil }

// Leaving tells whether the mesh is being taken away.
func (c *Cluster) Leaving() bool { return c.mesh.leaving.Load() }

// ReportLeft says how many agents have let their pods go: "<n> of <m>", and more for people.
func (c *Cluster) ReportLeft(ctx context.Context, text string) error {
	return c.patchMesh(ctx, keyLeft, text)
}

func (c *Cluster) patchMesh(ctx context.Context, key, value string) error {
	patch, err := json.Marshal(map[string]any{"data": map[string]string{key: value}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().ConfigMaps(c.cfg.Namespace).Patch(ctx, MeshConfig, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("write ConfigMap %s/%s: %w", c.cfg.Namespace, MeshConfig, err)
	}
	return nil
}

// Leave asks the mesh to go and waits until every agent has let its pods go, or ctx ends. What it waits for is written to
// out. A mesh that is not there has left.
func (c *Cluster) Leave(ctx context.Context, out io.Writer) error {
	if err := c.patchMesh(ctx, keyState, StateLeaving); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	said := ""
	for {
		config, err := c.client.CoreV1().ConfigMaps(c.cfg.Namespace).Get(ctx, MeshConfig, metav1.GetOptions{})
		if err == nil {
			left := config.Data[keyLeft]
			if left != said {
				fmt.Fprintf(out, "agents that have let their pods go: %s\n", left)
				said = left
			}
			var done, all int
			if n, _ := fmt.Sscanf(left, "%d of %d", &done, &all); n == 2 && done >= all && !strings.Contains(left, LeftMore) {
				return nil
			}
		}
		if pause(ctx, 500*time.Millisecond) != nil {
			return fmt.Errorf("not every agent has let its pods go (%s): their pods stay captured until the node reboots "+
				"or `agent cleanup` runs there", said)
		}
	}
}
