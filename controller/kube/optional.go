package kube

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// discoverEvery is how often the API server is asked whether it has kinds that it may not have.
const discoverEvery = 30 * time.Second

// optional follows kinds that a cluster may do without: those of the Gateway API, and those of ours that an older
// version's CRDs do not have. A kind that is not there has no objects, and that is not the same as objects which were not
// read yet. One that appears later is taken up then, and one that goes is let go.
type optional struct {
	cluster *Cluster
	source  *source
	every   time.Duration
	// served returns the resources of a group's version, none if the API server does not have it.
	served func(ctx context.Context, gv schema.GroupVersion) ([]string, error)
	kinds  []*optionalKind
}

// optionalKind is one kind, and the reflector that follows it while it is there.
type optionalKind struct {
	kind     string
	resource string
	versions []schema.GroupVersion // the preferred first
	store    *store

	mu      sync.Mutex
	at      schema.GroupVersionResource // what is followed, the zero value while nothing is
	stop    context.CancelFunc
	stopped chan struct{}
}

func newOptional(c *Cluster, s *source) *optional {
	o := &optional{cluster: c, source: s, every: discoverEvery, served: c.resources}
	for kind, resource := range map[string]string{
		manifest.KindGateway: "gateways", manifest.KindHTTPRoute: "httproutes", manifest.KindGRPCRoute: "grpcroutes",
		manifest.KindTCPRoute: "tcproutes", manifest.KindTLSRoute: "tlsroutes", manifest.KindReferenceGrant: "referencegrants",
	} {
		var versions []schema.GroupVersion
		for _, v := range manifest.GatewayVersions(kind) {
			versions = append(versions, schema.GroupVersion{Group: manifest.GatewayGroup, Version: v})
		}
		o.add(kind, resource, versions)
	}
	gv := []schema.GroupVersion{{Group: v1alpha1.Group, Version: version}}
	for _, kind := range []string{manifest.KindTrafficPolicy, manifest.KindRequestAuthentication} {
		o.add(kind, resourceOf(kind).Resource, gv)
	}
	slices.SortFunc(o.kinds, func(a, b *optionalKind) int { return cmp.Compare(a.kind, b.kind) })
	return o
}

func (o *optional) add(kind, resource string, versions []schema.GroupVersion) {
	st := newStore(kind, o.source.signal)
	o.source.stores = append(o.source.stores, st)
	o.kinds = append(o.kinds, &optionalKind{kind: kind, resource: resource, versions: versions, store: st})
}

// resources asks the API server for the resources of a group's version.
func (c *Cluster) resources(ctx context.Context, gv schema.GroupVersion) (out []string, err error) {
	list, err := c.client.Discovery().ServerResourcesForGroupVersionWithContext(ctx, gv.String())
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, r := range list.APIResources {
		out = append(out, r.Name)
	}
	return out, nil
}

// run looks what is there, again and again, until ctx ends.
func (o *optional) run(ctx context.Context) {
	defer o.stopAll()
	wait := time.Second // until the API server has answered once
	failed := false
	for {
		err := o.look(ctx)
		if err == nil {
			wait = o.every
		}
		if err != nil && !failed && ctx.Err() == nil {
			o.cluster.cfg.Log.Warn("cannot ask the API server which kinds of the Gateway API it has", "err", err)
		}
		failed = err != nil
		if pause(ctx, min(wait, o.every)) != nil {
			return
		}
	}
}

// look follows what is there now. If one version cannot be asked about, the kinds that have it stay as they are.
func (o *optional) look(ctx context.Context) error {
	served, unknown, err := o.discover(ctx)
	for _, k := range o.kinds {
		if slices.ContainsFunc(k.versions, func(gv schema.GroupVersion) bool { return unknown[gv] }) {
			if err != nil {
				k.store.unanswered(err)
			}
			continue
		}
		at := schema.GroupVersionResource{}
		for _, gv := range k.versions {
			if served[gv][k.resource] {
				at = gv.WithResource(k.resource)
				break
			}
		}
		k.follow(ctx, o.cluster, at)
	}
	return err
}

func (o *optional) discover(ctx context.Context) (served map[schema.GroupVersion]map[string]bool, unknown map[schema.GroupVersion]bool, err error) {
	served, unknown = make(map[schema.GroupVersion]map[string]bool), make(map[schema.GroupVersion]bool)
	wanted := make(map[schema.GroupVersion]bool)
	for _, k := range o.kinds {
		for _, gv := range k.versions {
			wanted[gv] = true
		}
	}
	order := slices.SortedFunc(maps.Keys(wanted), func(a, b schema.GroupVersion) int { return cmp.Compare(a.String(), b.String()) })
	for _, gv := range order {
		names, askErr := o.served(ctx, gv)
		if askErr != nil {
			unknown[gv], err = true, askErr
			continue
		}
		served[gv] = make(map[string]bool, len(names))
		for _, name := range names {
			served[gv][name] = true
		}
	}
	return served, unknown, err
}

// follow follows at from now on, or nothing if it is the zero value.
func (k *optionalKind) follow(ctx context.Context, c *Cluster, at schema.GroupVersionResource) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if at == k.at {
		if at.Empty() {
			k.store.absent()
		}
		return
	}
	k.end()
	if k.at = at; at.Empty() {
		c.cfg.Log.Info("the API server does not have a kind any more", "kind", k.kind)
		k.store.absent()
		return
	}
	c.cfg.Log.Info("the API server has a kind that it may do without", "kind", k.kind, "version", at.GroupVersion().String())
	followCtx, cancel := context.WithCancel(ctx)
	lw := cache.ToListWatcherWithWatchListSemantics(noted(k.store, c.cfg.Log, c.custom(at)), c.dynamic)
	reflector := cache.NewReflectorWithOptions(lw, &unstructured.Unstructured{}, k.store,
		cache.ReflectorOptions{Name: k.kind})
	k.stop, k.stopped = cancel, make(chan struct{})
	go func(stopped chan struct{}) {
		defer close(stopped)
		reflector.RunWithContext(followCtx)
	}(k.stopped)
}

// end stops what is followed, and waits for it. Caller holds mu.
func (k *optionalKind) end() {
	if k.stop != nil {
		k.stop()
		<-k.stopped
		k.stop = nil
	}
}

func (o *optional) stopAll() {
	for _, k := range o.kinds {
		k.mu.Lock()
		k.end()
		k.at = schema.GroupVersionResource{}
		k.mu.Unlock()
	}
}

// resourceAt is where objects of a kind are now, the zero value if the API server does not have it.
func (o *optional) resourceAt(kind string) schema.GroupVersionResource {
	for _, k := range o.kinds {
		if k.kind == kind {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.at
		}
	}
	return schema.GroupVersionResource{}
}
