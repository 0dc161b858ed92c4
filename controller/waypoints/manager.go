package waypoints

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const (
	// resyncEvery is how often every Gateway is looked at although nothing was heard of it, and forgetEvery how often all
	// its objects are applied again then, whoever changed them unheard.
	resyncEvery = 30 * time.Second
	forgetEvery = 10 * time.Minute
	// apiEvery is how often it is asked whether the API server knows Gateways, until it does.
	apiEvery = 5 * time.Second
	// lookEvery is how often it is looked whether a mesh that was leaving stays after all.
	lookEvery = time.Second
	// A Gateway whose objects cannot be written is tried again after retryFirst, then later, and at last every retryMost.
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
)

// Manager runs waypoints while its controller leads. It runs once.
type Manager struct {
	cfg     Config
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]
	factory informers.SharedInformerFactory
	dynamic dynamicinformer.DynamicSharedInformerFactory
	cache   cache.SharedIndexInformer // of Gateways
	listers listers
	synced  []cache.InformerSynced

	// applied has the stamps of objects that are right. Only the worker uses it.
	applied map[string]string
	forgot  time.Time

	// removed is set once Remove has been called: if the mesh stays after all, everything is made again.
	removed atomic.Bool
}

type listers struct {
	accounts    corelisters.ServiceAccountLister
	services    corelisters.ServiceLister
	deployments appslisters.DeploymentLister
	budgets     policylisters.PodDisruptionBudgetLister
	scalers     autoscalinglisters.HorizontalPodAutoscalerLister
}

func gateways() schema.GroupVersionResource {
	return group().WithResource("gateways")
}

// New prepares a manager. Nothing is asked before Run.
func New(cfg Config) (*Manager, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg: cfg, applied: map[string]string{}, forgot: time.Now(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](retryFirst, retryMost)),
		factory: informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(
			func(o *metav1.ListOptions) { o.LabelSelector = oursSelector() })),
		dynamic: dynamicinformer.NewDynamicSharedInformerFactory(cfg.Dynamic, 0),
	}
	m.listers = listers{
		accounts: m.factory.Core().V1().ServiceAccounts().Lister(), services: m.factory.Core().V1().Services().Lister(),
		deployments: m.factory.Apps().V1().Deployments().Lister(),
		budgets:     m.factory.Policy().V1().PodDisruptionBudgets().Lister(),
		scalers:     m.factory.Autoscaling().V2().HorizontalPodAutoscalers().Lister(),
	}
	m.cache = m.dynamic.ForResource(gateways()).Informer()
	return m, m.handle()
}

// oursSelector finds what was made for waypoints, in any namespace.
func oursSelector() string { return managedBy + "=" + managedByUs + "," + LabelClass + "=" + Class }

// handle makes every change of a Gateway, or of an object that was made for one, a look at that Gateway.
func (m *Manager) handle() error {
	children := []cache.SharedIndexInformer{
		m.factory.Core().V1().ServiceAccounts().Informer(), m.factory.Core().V1().Services().Informer(),
		m.factory.Apps().V1().Deployments().Informer(), m.factory.Policy().V1().PodDisruptionBudgets().Informer(),
		m.factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer(),
	}
	watch := func(informer cache.SharedIndexInformer, name func(metav1.Object) string) error {
		see := func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(metav1.Object); ok && name(o) != "" {
				m.queue.Add(types.NamespacedName{Namespace: o.GetNamespace(), Name: name(o)})
			}
		}
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: see, UpdateFunc: func(_, now any) { see(now) }, DeleteFunc: see})
		if err != nil {
			return fmt.Errorf("waypoints: watch: %w", err)
		}
		m.synced = append(m.synced, registration.HasSynced)
		return nil
	}
	for _, informer := range children {
		if err := watch(informer, func(o metav1.Object) string { return o.GetLabels()[LabelGateway] }); err != nil {
			return err
		}
	}
	return watch(m.cache, metav1.Object.GetName)
}

// Run runs waypoints until ctx ends. Where the API server knows no Gateways it waits until it does.
func (m *Manager) Run(ctx context.Context) error {
	defer m.queue.ShutDown()
	if err := m.awaitAPI(ctx); err != nil {
		return err
	}
	m.factory.StartWithContext(ctx)
	m.dynamic.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), m.synced...) {
		return ctx.Err()
	}
	var worker sync.WaitGroup
	worker.Go(func() {
		for m.next(ctx) {
		}
	})
	m.look(ctx)
	m.queue.ShutDown()
	worker.Wait()
	m.factory.Shutdown()
	m.dynamic.Shutdown()
	return ctx.Err()
}

// awaitAPI waits until Gateways are served.
func (m *Manager) awaitAPI(ctx context.Context) error {
	said := false
	for {
		_, err := m.cfg.Dynamic.Resource(gateways()).List(ctx, metav1.ListOptions{Limit: 1})
		switch {
		case err == nil:
			return nil
		case !said && apierrors.IsNotFound(err):
			m.cfg.Log.Info("the cluster has no Gateway API, so there are no waypoints; they begin once its CRDs are installed")
			said = true
		case !said && ctx.Err() == nil:
			m.cfg.Log.Warn("cannot read Gateways; no waypoint is run until that works", "err", err)
			said = true
		}
		if err := pause(ctx, apiEvery); err != nil {
			return err
		}
	}
}

// look does what no event tells of.
func (m *Manager) look(ctx context.Context) {
	last := time.Time{}
	for {
		if !m.cfg.Leaving() && (m.removed.Swap(false) || time.Since(last) > resyncEvery) {
			last = time.Now()
			if err := m.putClass(ctx); err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn("cannot write the GatewayClass", "err", err)
			}
			for _, gw := range m.gatewaysOf("") {
				m.queue.Add(types.NamespacedName{Namespace: gw.Namespace, Name: gw.Name})
			}
		}
		if pause(ctx, lookEvery) != nil {
			return
		}
	}
}

func (m *Manager) next(ctx context.Context) bool {
	key, stop := m.queue.Get()
	if stop || ctx.Err() != nil {
		return false
	}
	defer m.queue.Done(key)
	err := m.reconcile(ctx, key)
	switch {
	case err == nil:
		m.queue.Forget(key)
	case ctx.Err() != nil:
		return false
	default:
		if !apierrors.IsConflict(err) {
			m.cfg.Log.Warn("a waypoint is not as it shall be", "gateway", key.String(), "err", err)
		}
		m.queue.AddRateLimited(key)
	}
	return true
}

// reconcile makes one Gateway's objects what it asks for, and says on it what came of that.
func (m *Manager) reconcile(ctx context.Context, key types.NamespacedName) error {
	if time.Since(m.forgot) > forgetEvery {
		clear(m.applied)
		m.forgot = time.Now()
	}
	gw, there := m.gateway(key)
	if m.cfg.Leaving() || !there || gw.DeletionTimestamp != nil {
		return nil // what it has goes with it
	}
	if string(gw.Spec.GatewayClassName) != Class {
		return m.removeOf(ctx, gw)
	}
	var o outcome
	var w want
	if w, o.refused = read(gw, m.cfg.Template); o.refused == nil {
		if o.failed = errNoImage; m.cfg.Template.Image != "" {
			o.failed = m.put(ctx, &w)
		}
	}
	m.observe(key, gw.UID, &o)
	err := m.writeStatus(ctx, gw, o.status(gw))
	if errors.Is(o.failed, errNoImage) || errors.Is(o.failed, errTaken) {
		return err // said on the Gateway; it is looked at again now and then
	}
	return errors.Join(o.failed, err)
}

// observe reads how a Gateway's objects are.
func (m *Manager) observe(key types.NamespacedName, uid types.UID, o *outcome) {
	if d, err := m.listers.deployments.Deployments(key.Namespace).Get(key.Name); err == nil && ownedBy(d, uid) {
		o.ready, o.wanted = d.Status.ReadyReplicas, 1
		if d.Spec.Replicas != nil {
			o.wanted = *d.Spec.Replicas
		}
	}
	if s, err := m.listers.services.Services(key.Namespace).Get(key.Name); err == nil && ownedBy(s, uid) {
		for _, ip := range s.Spec.ClusterIPs {
			if ip != "" && ip != "None" {
				o.addresses = append(o.addresses, ip)
			}
		}
	}
}

// gateway reads a Gateway from the cache.
func (m *Manager) gateway(key types.NamespacedName) (*gatewayv1.Gateway, bool) {
	obj, ok, err := m.cache.GetIndexer().GetByKey(key.String())
	if err != nil || !ok {
		return nil, false
	}
	gw, err := gatewayOf(obj)
	if err != nil {
		m.cfg.Log.Warn("cannot read a Gateway", "gateway", key.String(), "err", err)
		return nil, false
	}
	return gw, true
}

// gatewaysOf are the Gateways of our class in a namespace, or everywhere, that nobody is deleting.
func (m *Manager) gatewaysOf(namespace string) (out []*gatewayv1.Gateway) {
	for _, obj := range m.cache.GetIndexer().List() {
		gw, err := gatewayOf(obj)
		if err != nil || string(gw.Spec.GatewayClassName) != Class || gw.DeletionTimestamp != nil {
			continue
		}
		if namespace == "" || gw.Namespace == namespace {
			out = append(out, gw)
		}
	}
	slices.SortFunc(out, func(a, b *gatewayv1.Gateway) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func gatewayOf(obj any) (*gatewayv1.Gateway, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("watch Gateways: got a %T", obj)
	}
	gw := new(gatewayv1.Gateway)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, gw); err != nil {
		return nil, fmt.Errorf("read Gateway %s/%s: %w", u.GetNamespace(), u.GetName(), err)
	}
	return gw, nil
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
