package kube

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// source follows every kind that the mesh is made from.
type source struct {
	reflectors []*cache.Reflector
	stores     []*store
	optional   *optional
	wake       chan struct{} // capacity 1
}

// version of our own kinds, which v1alpha1.APIVersion has too.
const version = "v1alpha1"

// ours is one of our own kinds' resources.
func ours(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: v1alpha1.Group, Version: version, Resource: resource}
}

func newSource(c *Cluster) *source {
	s := &source{wake: make(chan struct{}, 1)}
	core, discovery := c.client.CoreV1().RESTClient(), c.client.DiscoveryV1().RESTClient()
	s.follow(c, manifest.KindNamespace, &corev1.Namespace{}, builtin(core, "namespaces"))
	s.follow(c, manifest.KindNode, &corev1.Node{}, builtin(core, "nodes"))
	s.follow(c, manifest.KindPod, &corev1.Pod{}, builtin(core, "pods"))
	s.follow(c, manifest.KindService, &corev1.Service{}, builtin(core, "services"))
	s.follow(c, manifest.KindEndpointSlice, &discoveryv1.EndpointSlice{}, builtin(discovery, "endpointslices"))
	s.follow(c, manifest.KindAuthorizationPolicy, &unstructured.Unstructured{}, c.custom(resourceOf(manifest.KindAuthorizationPolicy)))
	s.follow(c, manifest.KindPeerAuthentication, &unstructured.Unstructured{}, c.custom(resourceOf(manifest.KindPeerAuthentication)))
	s.optional = newOptional(c, s)
	return s
}

func builtin(client rest.Interface, resource string) *cache.ListWatch {
	return cache.NewListWatchFromClient(client, resource, metav1.NamespaceAll, fields.Everything())
}

func (c *Cluster) custom(gvr schema.GroupVersionResource) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return c.dynamic.Resource(gvr).List(ctx, opts)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return c.dynamic.Resource(gvr).Watch(ctx, opts)
		},
	}
}

// follow adds a kind.
func (s *source) follow(c *Cluster, kind string, expected any, lw *cache.ListWatch) {
	st := newStore(kind, s.signal)
	s.stores = append(s.stores, st)
	s.reflectors = append(s.reflectors, cache.NewReflectorWithOptions(noted(st, c.cfg.Log, lw), expected, st, cache.ReflectorOptions{Name: kind}))
}

// noted is lw, with the store told whether the API server answers.
func noted(st *store, log *slog.Logger, lw *cache.ListWatch) *cache.ListWatch {
	log = log.With("kind", st.kind)
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			list, err := lw.ListWithContext(ctx, opts)
			st.answered(ctx, log, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			w, err := lw.WatchWithContext(ctx, opts)
			st.answered(ctx, log, err)
			return w, err
		},
	}
}

func (s *source) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run keeps the stores up to date until ctx ends.
func (s *source) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, r := range s.reflectors {
		all.Go(func() { r.RunWithContext(ctx) })
	}
	all.Go(func() { s.optional.run(ctx) })
	all.Wait()
}

// collect returns what the stores hold now, in no order: the compiler sorts.
func (s *source) collect() (r manifest.Result) {
	for _, st := range s.stores {
		st.read(&r)
	}
	slices.Sort(r.Rejected)
	return r
}

// Follow keeps up with the API server until ctx ends, whether or not this replica leads.
func (c *Cluster) Follow(ctx context.Context) error {
	c.source.run(ctx)
	return ctx.Err()
}

// Synced tells whether every kind was read once.
func (c *Cluster) Synced() bool { return !c.source.collect().Incomplete }

// Run calls changed with what there is, and again after every change, until ctx ends. A change after a quiet time is handed
// on after Settle. While they keep coming they are handed on together, at most every maxSettle: churn costs no more than
// that many updates a second to every agent.
func (c *Cluster) Run(ctx context.Context, changed func(manifest.Result)) error {
	settle := c.cfg.Settle
	for {
		started := time.Now()
		changed(c.source.collect())
		took := time.Since(started)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.source.wake:
		}
		settle = nextSettle(settle, c.cfg.Settle, time.Since(started)-took)
		if err := pause(ctx, max(settle, took)); err != nil {
			return err
		}
	}
}

// maxSettle bounds how long changes are collected while they keep coming.
const maxSettle = 250 * time.Millisecond

// nextSettle doubles the time for which changes are collected as long as the next one comes within it, and starts again
// from the least after a quiet time.
func nextSettle(last, least, quiet time.Duration) time.Duration {
	if quiet > 2*last {
		return least
	}
	return max(least, min(2*last, maxSettle))
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
