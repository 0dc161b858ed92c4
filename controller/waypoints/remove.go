package waypoints

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// removal is how the objects of one kind are found and deleted.
type removal struct {
	kind   string
	list   func(context.Context, metav1.ListOptions) (runtime.Object, error)
	delete func(ctx context.Context, namespace, name string) error
}

// removals are the kinds in the order in which they go: nothing may be made anew meanwhile, and the account goes last,
// because it tells where there was a waypoint.
func (m *Manager) removals() []removal {
	c, opts := m.cfg.Client, metav1.DeleteOptions{}
	background := metav1.DeletePropagationBackground
	opts.PropagationPolicy = &background
	return []removal{
		{"HorizontalPodAutoscaler", func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) {
			return c.AutoscalingV2().HorizontalPodAutoscalers("").List(ctx, l)
		}, func(ctx context.Context, ns, n string) error {
			return c.AutoscalingV2().HorizontalPodAutoscalers(ns).Delete(ctx, n, opts)
		}},
		{"PodDisruptionBudget", func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) {
			return c.PolicyV1().PodDisruptionBudgets("").List(ctx, l)
		}, func(ctx context.Context, ns, n string) error {
			return c.PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, n, opts)
		}},
		{"Deployment", func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) {
			return c.AppsV1().Deployments("").List(ctx, l)
		}, func(ctx context.Context, ns, n string) error { return c.AppsV1().Deployments(ns).Delete(ctx, n, opts) }},
		{"Service", func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) {
			return c.CoreV1().Services("").List(ctx, l)
		}, func(ctx context.Context, ns, n string) error { return c.CoreV1().Services(ns).Delete(ctx, n, opts) }},
		{kindAccount, func(ctx context.Context, l metav1.ListOptions) (runtime.Object, error) {
			return c.CoreV1().ServiceAccounts("").List(ctx, l)
		}, func(ctx context.Context, ns, n string) error {
			return c.CoreV1().ServiceAccounts(ns).Delete(ctx, n, opts)
		}},
	}
}

const kindAccount = "ServiceAccount"

// removeRoots deletes a namespace's copy of the roots. There is no right to list ConfigMaps: they are found by where
// waypoints are.
func (m *Manager) removeRoots(ctx context.Context, namespace string) error {
	if namespace == m.cfg.Namespace {
		return nil
	}
	api := m.cfg.Client.CoreV1().ConfigMaps(namespace)
	have, err := api.Get(ctx, Roots, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && have.Labels[managedBy] != managedByUs {
		return nil
	}
	if err == nil {
		err = api.Delete(ctx, Roots, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete ConfigMap %s/%s: %w", namespace, Roots, err)
	}
	return nil
}

// Remove takes every waypoint away, and the class, because the mesh leaves. Gateways are their authors' and stay. It asks
// the API server, not a cache, and returns how many objects there still were: 0 once nothing is left.
func (m *Manager) Remove(ctx context.Context) (found int, err error) {
	m.removed.Store(true)
	for _, r := range m.removals() {
		list, err := r.list(ctx, metav1.ListOptions{LabelSelector: oursSelector()})
		if err != nil {
			return found, fmt.Errorf("list what waypoints have of kind %s: %w", r.kind, err)
		}
		items, err := meta.ExtractList(list)
		if err != nil {
			return found, err
		}
		for _, item := range items {
			o, err := meta.Accessor(item)
			if err != nil {
				return found, err
			}
			found++
			if r.kind == kindAccount {
				if err := m.removeRoots(ctx, o.GetNamespace()); err != nil {
					return found, err
				}
			}
			if err := r.delete(ctx, o.GetNamespace(), o.GetName()); err != nil && !apierrors.IsNotFound(err) {
				return found, fmt.Errorf("delete %s %s/%s: %w", r.kind, o.GetNamespace(), o.GetName(), err)
			}
		}
	}
	return found, errors.Join(m.disown(ctx), m.removeClass(ctx))
}

// disown says on every Gateway that nobody cares for it, in the words with which the Gateway API creates one.
func (m *Manager) disown(ctx context.Context) error {
	list, err := m.cfg.Dynamic.Resource(gateways()).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list Gateways: %w", err)
	}
	var errs []error
	for i := range list.Items {
		gw, err := gatewayOf(&list.Items[i])
		if err != nil || string(gw.Spec.GatewayClassName) != Class {
			continue
		}
		status := gatewayv1.GatewayStatus{}
		kinds := []gatewayv1.GatewayConditionType{gatewayv1.GatewayConditionAccepted, gatewayv1.GatewayConditionProgrammed}
		for _, kind := range kinds {
			c := metav1.Condition{Type: string(kind), Status: metav1.ConditionUnknown,
				Reason: string(gatewayv1.GatewayReasonPending), Message: "Waiting for controller"}
			if old := meta.FindStatusCondition(gw.Status.Conditions, string(kind)); old != nil {
				status.Conditions = append(status.Conditions, *old)
			}
			meta.SetStatusCondition(&status.Conditions, c)
		}
		errs = append(errs, m.writeStatus(ctx, gw, status))
	}
	return errors.Join(errs...)
}

// removeOf deletes what a Gateway has that is of another class now.
func (m *Manager) removeOf(ctx context.Context, gw *gatewayv1.Gateway) error {
	have := m.childrenOf(gw.Namespace, gw.Name)
	for _, r := range m.removals() {
		o := have[r.kind]
		if o == nil || !ownedBy(o, gw.UID) {
			continue
		}
		if r.kind == kindAccount && len(m.gatewaysOf(gw.Namespace)) == 0 {
			if err := m.removeRoots(ctx, gw.Namespace); err != nil {
				return err
			}
		}
		if err := r.delete(ctx, gw.Namespace, gw.Name); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s/%s: %w", r.kind, gw.Namespace, gw.Name, err)
		}
	}
	return nil
}

// childrenOf are the objects of a Gateway's name that the cache has, by kind.
func (m *Manager) childrenOf(ns, name string) map[string]metav1.Object {
	out := map[string]metav1.Object{}
	keep := func(kind string, o metav1.Object, err error) {
		if err == nil {
			out[kind] = o
		}
	}
	scaler, err := m.listers.scalers.HorizontalPodAutoscalers(ns).Get(name)
	keep("HorizontalPodAutoscaler", scaler, err)
	budget, err := m.listers.budgets.PodDisruptionBudgets(ns).Get(name)
	keep("PodDisruptionBudget", budget, err)
	deployment, err := m.listers.deployments.Deployments(ns).Get(name)
	keep("Deployment", deployment, err)
	service, err := m.listers.services.Services(ns).Get(name)
	keep("Service", service, err)
	account, err := m.listers.accounts.ServiceAccounts(ns).Get(name)
	keep(kindAccount, account, err)
	return out
}
