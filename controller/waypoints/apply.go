package waypoints

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// errTaken is wrapped if a name is taken by an object that is not this Gateway's. It is never overwritten.
var errTaken = errors.New("the name is taken")

// object is one object that a Gateway gets.
type object struct {
	kind, namespace, name string
	// digest is of what shall be applied.
	digest string
	cached func() (metav1.Object, error)
	live   func(context.Context) (metav1.Object, error)
	apply  func(context.Context, metav1.ApplyOptions) (metav1.Object, error)
	delete func(context.Context, metav1.DeleteOptions) error
	// ours tells whether an object that is there is the Gateway's.
	ours func(metav1.Object) bool
}

// kindAPI is the client of one kind.
type kindAPI[T metav1.Object, A any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Apply(ctx context.Context, config A, opts metav1.ApplyOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// objectOf puts one object's client, cache and wanted content together. cached may be nil: then the API server is asked.
func objectOf[T metav1.Object, A any](
	w *want, kind, name string, client kindAPI[T, A], cached func(string) (T, error), config A,
) object {
	live := func(ctx context.Context) (metav1.Object, error) { return client.Get(ctx, name, metav1.GetOptions{}) }
	o := object{
		kind: kind, namespace: w.key.Namespace, name: name, digest: digest(config), live: live,
		cached: func() (metav1.Object, error) {
			return nil, apierrors.NewNotFound(gatewayv1.Resource(kind), name)
		},
		apply: func(ctx context.Context, opts metav1.ApplyOptions) (metav1.Object, error) {
			return client.Apply(ctx, config, opts)
		},
		delete: func(ctx context.Context, opts metav1.DeleteOptions) error { return client.Delete(ctx, name, opts) },
		ours:   func(have metav1.Object) bool { return ownedBy(have, w.uid) },
	}
	if cached != nil {
		o.cached = func() (metav1.Object, error) { return cached(name) }
	}
	return o
}

func ownedBy(o metav1.Object, uid types.UID) bool {
	c := metav1.GetControllerOf(o)
	return c != nil && c.UID == uid
}

func digest(config any) string {
	raw, err := json.Marshal(config)
	if err != nil {
		return "" // it is applied every time
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// stamp is what an object is known by that was right: what was applied, and the version that came of it. Status has no
// part in it where the API server counts generations.
func stamp(digest string, o metav1.Object) string {
	if g := o.GetGeneration(); g > 0 {
		return fmt.Sprintf("%s g%d %s", digest, g, o.GetUID())
	}
	return digest + " v" + o.GetResourceVersion()
}

// objects are those of one Gateway, what others need first.
func (m *Manager) objects(w *want, deployment *appsac.DeploymentApplyConfiguration) []object {
	ns, c, l := w.key.Namespace, m.cfg.Client, m.listers
	list := []object{
		objectOf(w, "ServiceAccount", w.key.Name, c.CoreV1().ServiceAccounts(ns), l.accounts.ServiceAccounts(ns).Get,
			w.serviceAccount()),
		objectOf(w, "Service", w.key.Name, c.CoreV1().Services(ns), l.services.Services(ns).Get, w.service()),
		objectOf(w, "PodDisruptionBudget", w.key.Name, c.PolicyV1().PodDisruptionBudgets(ns),
			l.budgets.PodDisruptionBudgets(ns).Get, w.budget()),
		objectOf(w, "Deployment", w.key.Name, c.AppsV1().Deployments(ns), l.deployments.Deployments(ns).Get, deployment),
	}
	if ns != m.cfg.Namespace { // the mesh's own namespace has the ConfigMap anyway
		roots := objectOf(w, "ConfigMap", Roots, c.CoreV1().ConfigMaps(ns), nil, m.cfg.roots(ns, m.owners(w)))
		roots.ours = func(have metav1.Object) bool { return have.GetLabels()[managedBy] == managedByUs }
		list = append([]object{roots}, list...)
	}
	if w.max > 0 {
		list = append(list, objectOf(w, "HorizontalPodAutoscaler", w.key.Name, c.AutoscalingV2().HorizontalPodAutoscalers(ns),
			l.scalers.HorizontalPodAutoscalers(ns).Get, w.scaler()))
	}
	return list
}

// owners are all Gateways of the namespace that have a waypoint: the roots go with the last of them.
func (m *Manager) owners(w *want) (out []*metaac.OwnerReferenceApplyConfiguration) {
	for _, gw := range m.gatewaysOf(w.key.Namespace) {
		other := want{key: types.NamespacedName{Namespace: gw.Namespace, Name: gw.Name}, uid: gw.UID}
		out = append(out, other.owner().WithController(false))
	}
	return out
}

// put makes a Gateway's objects what they shall be. An autoscaler that is not asked for any more is deleted.
func (m *Manager) put(ctx context.Context, w *want) error {
	deployment, err := m.scaled(ctx, w)
	if err != nil {
		return err
	}
	for _, o := range m.objects(w, deployment) {
		if err := m.putOne(ctx, w, o); err != nil {
			return err
		}
	}
	if w.max > 0 {
		return nil
	}
	have, err := m.listers.scalers.HorizontalPodAutoscalers(w.key.Namespace).Get(w.key.Name)
	if err != nil || !ownedBy(have, w.uid) {
		return nil
	}
	api := m.cfg.Client.AutoscalingV2().HorizontalPodAutoscalers(w.key.Namespace)
	err = api.Delete(ctx, w.key.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete HorizontalPodAutoscaler %s: %w", w.key, err)
	}
	return nil
}

func (m *Manager) putOne(ctx context.Context, w *want, o object) error {
	key := o.kind + "/" + o.namespace + "/" + o.name
	if have, err := o.cached(); err == nil && o.digest != "" && o.ours(have) && m.applied[key] == stamp(o.digest, have) {
		return nil
	}
	have, err := o.live(ctx)
	opts := metav1.ApplyOptions{FieldManager: manager}
	switch {
	case apierrors.IsNotFound(err): // not forced: if it appears meanwhile, and says something else, that is a conflict
	case err != nil:
		return fmt.Errorf("read %s %s/%s: %w", o.kind, o.namespace, o.name, err)
	case !o.ours(have):
		return taken(w, o, have)
	case m.applied[key] == stamp(o.digest, have): // the cache is late, or has no such kind
		return nil
	default:
		opts.Force = true
	}
	now, err := o.apply(ctx, opts)
	if err != nil {
		return fmt.Errorf("apply %s %s/%s: %w", o.kind, o.namespace, o.name, err)
	}
	m.applied[key] = stamp(o.digest, now)
	return nil
}

// taken says whose the name is: that of an earlier Gateway of the same name goes by itself.
func taken(w *want, o object, have metav1.Object) error {
	whose := "it is not this Gateway's"
	if c := metav1.GetControllerOf(have); c != nil && c.Kind == "Gateway" && c.Name == w.key.Name {
		whose = "it is an earlier Gateway's of this name, and goes by itself"
	}
	return fmt.Errorf("%w: there is a %s %s/%s already, and %s; rename or delete one of them",
		errTaken, o.kind, o.namespace, o.name, whose)
}

// handover is who owns a Deployment's replicas between the time that they were ours and the autoscaler's first word.
const handover = "warren-controller-scale"

// scaled is the Deployment to apply. Its replicas are an autoscaler's business if there is one, but to just leave them out
// where we wrote them before would mean one pod: they are given to somebody else first, as they are.
func (m *Manager) scaled(ctx context.Context, w *want) (*appsac.DeploymentApplyConfiguration, error) {
	config := m.cfg.deployment(w)
	if w.max == 0 {
		return config, nil
	}
	api := m.cfg.Client.AppsV1().Deployments(w.key.Namespace)
	have, err := api.Get(ctx, w.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		config.Spec.WithReplicas(w.replicas) // and given away at the next look
		return config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Deployment %s: %w", w.key, err)
	}
	if !ownedBy(have, w.uid) || !writesReplicas(have) || have.Spec.Replicas == nil {
		return config, nil
	}
	give := appsac.Deployment(w.key.Name, w.key.Namespace).
		WithSpec(appsac.DeploymentSpec().WithReplicas(*have.Spec.Replicas))
	if _, err := api.Apply(ctx, give, metav1.ApplyOptions{FieldManager: handover, Force: true}); err != nil {
		return nil, fmt.Errorf("hand the replicas of Deployment %s to its autoscaler: %w", w.key, err)
	}
	return config, nil
}

// writesReplicas tells whether the number of replicas is what we applied.
func writesReplicas(d *appsv1.Deployment) bool {
	for _, f := range d.ManagedFields {
		if f.Manager != manager || f.Operation != metav1.ManagedFieldsOperationApply || f.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Spec map[string]json.RawMessage `json:"f:spec"`
		}
		if json.Unmarshal(f.FieldsV1.GetRawBytes(), &fields) == nil && fields.Spec["f:replicas"] != nil {
			return true
		}
	}
	return false
}
