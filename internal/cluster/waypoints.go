package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Names of what makes a Gateway a waypoint, and of what says who uses it.
const (
	WaypointClass       = "warren-waypoint"
	WaypointFor         = "warren.dev/waypoint-for"
	WaypointReplicas    = "warren.dev/waypoint-replicas"
	UseWaypoint         = "warren.dev/use-waypoint"
	UseWaypointIn       = "warren.dev/use-waypoint-namespace"
	gatewayName         = "gateway.networking.k8s.io/gateway-name"
	gatewayClass        = "gateway.networking.k8s.io/gateway-class-name"
	gatewayGroup        = "gateway.networking.k8s.io"
	gatewayCRD          = "gateways." + gatewayGroup
	controllerManagedBy = "warren-controller"
	fieldManager        = "agentctl"
)

// ErrNoGatewayAPI means that the cluster has no CRDs of the Gateway API, without which there are no waypoints.
var ErrNoGatewayAPI = errors.New("the Gateway API is not installed")

// Waypoint is a Gateway of our class, what runs for it and who uses it.
type Waypoint struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// For is which traffic it takes: all, service or workload.
	For string `json:"for"`
	// Ready of Want pods are ready. Scale is what was asked for, such as "2-10".
	Ready int32  `json:"ready"`
	Want  int32  `json:"want"`
	Scale string `json:"scale,omitempty"`
	// Accepted and Programmed are the Gateway's conditions. Status is "" where nobody has written them.
	Accepted   Condition `json:"accepted"`
	Programmed Condition `json:"programmed"`
	Addresses  []string  `json:"addresses,omitempty"`
	// UsedBy are those whose label names it, such as "Namespace shop" and "Service shop/payments".
	UsedBy  []string  `json:"usedBy,omitempty"`
	Created time.Time `json:"created"`
}

// Condition is one of a Gateway's.
type Condition struct {
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// OK says whether a condition holds.
func (c Condition) OK() bool { return c.Status == string(metav1.ConditionTrue) }

func gatewayResource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gatewayGroup, Version: "v1", Resource: "gateways"}
}

// Waypoints lists those of a namespace, or of all, by namespace and name. Returns ErrNoGatewayAPI, wrapped.
func (c *Cluster) Waypoints(ctx context.Context, namespace string) ([]Waypoint, error) {
	list, err := c.Dynamic.Resource(gatewayResource()).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w in %s", ErrNoGatewayAPI, c)
	}
	if err != nil {
		return nil, fmt.Errorf("list Gateways: %w", err)
	}
	var out []Waypoint
	for i := range list.Items {
		if class, _, _ := unstructured.NestedString(list.Items[i].Object, "spec", "gatewayClassName"); class == WaypointClass {
			out = append(out, waypointOf(&list.Items[i]))
		}
	}
	slices.SortFunc(out, func(a, b Waypoint) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	if len(out) == 0 {
		return nil, nil
	}
	if err := c.addReady(ctx, namespace, out); err != nil {
		return nil, err
	}
	return out, c.addUsers(ctx, out)
}

func waypointOf(o *unstructured.Unstructured) Waypoint {
	w := Waypoint{Namespace: o.GetNamespace(), Name: o.GetName(), For: cmp.Or(o.GetLabels()[WaypointFor], "all"),
		Scale: o.GetAnnotations()[WaypointReplicas], Created: o.GetCreationTimestamp().Time}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range conditions {
		raw, ok := item.(map[string]any)
		var one metav1.Condition
		if !ok || runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &one) != nil {
			continue
		}
		c := Condition{string(one.Status), one.Reason, one.Message}
		if one.ObservedGeneration != 0 && one.ObservedGeneration < o.GetGeneration() {
			c = Condition{string(metav1.ConditionUnknown), "Pending", "the controller has not seen the last change yet"}
		}
		switch one.Type {
		case "Accepted":
			w.Accepted = c
		case "Programmed":
			w.Programmed = c
		}
	}
	addresses, _, _ := unstructured.NestedSlice(o.Object, "status", "addresses")
	for _, item := range addresses {
		if raw, ok := item.(map[string]any); ok {
			w.Addresses = append(w.Addresses, fmt.Sprint(raw["value"]))
		}
	}
	return w
}

// addReady counts the pods of waypoints by their Deployments.
func (c *Cluster) addReady(ctx context.Context, namespace string, list []Waypoint) error {
	ours := metav1.ListOptions{LabelSelector: gatewayClass + "=" + WaypointClass}
	deployments, err := c.Client.AppsV1().Deployments(namespace).List(ctx, ours)
	if err != nil {
		return fmt.Errorf("list the waypoints' Deployments: %w", err)
	}
	by := make(map[types.NamespacedName]*appsv1.Deployment)
	for i := range deployments.Items {
		d := &deployments.Items[i]
		by[types.NamespacedName{Namespace: d.Namespace, Name: d.Labels[gatewayName]}] = d
	}
	for i := range list {
		d := by[types.NamespacedName{Namespace: list[i].Namespace, Name: list[i].Name}]
		if d == nil {
			continue
		}
		list[i].Ready, list[i].Want = d.Status.ReadyReplicas, 1
		if d.Spec.Replicas != nil {
			list[i].Want = *d.Spec.Replicas
		}
	}
	return nil
}

// addUsers finds whose labels name a waypoint.
func (c *Cluster) addUsers(ctx context.Context, list []Waypoint) error {
	at := make(map[types.NamespacedName]*Waypoint, len(list))
	for i := range list {
		at[types.NamespacedName{Namespace: list[i].Namespace, Name: list[i].Name}] = &list[i]
	}
	note := func(kind, namespace string, o metav1.ObjectMeta) {
		to := types.NamespacedName{Namespace: cmp.Or(o.Labels[UseWaypointIn], namespace), Name: o.Labels[UseWaypoint]}
		if w := at[to]; w != nil {
			name := o.Name
			if o.Namespace != "" {
				name = o.Namespace + "/" + o.Name
			}
			w.UsedBy = append(w.UsedBy, kind+" "+name)
		}
	}
	labelled := metav1.ListOptions{LabelSelector: UseWaypoint}
	namespaces, err := c.Client.CoreV1().Namespaces().List(ctx, labelled)
	if err != nil {
		return fmt.Errorf("look which namespaces use a waypoint: %w", err)
	}
	services, err := c.Client.CoreV1().Services("").List(ctx, labelled)
	if err != nil {
		return fmt.Errorf("look which services use a waypoint: %w", err)
	}
	pods, err := c.Client.CoreV1().Pods("").List(ctx, labelled)
	if err != nil {
		return fmt.Errorf("look which pods use a waypoint: %w", err)
	}
	for _, o := range namespaces.Items {
		note("Namespace", o.Name, o.ObjectMeta)
	}
	for _, o := range services.Items {
		note("Service", o.Namespace, o.ObjectMeta)
	}
	for _, o := range pods.Items {
		note("Pod", o.Namespace, o.ObjectMeta)
	}
	return nil
}

// ApplyGateway makes or changes a Gateway, given in YAML or JSON. One of another class is left alone.
func (c *Cluster) ApplyGateway(ctx context.Context, gateway map[string]any) error {
	u := &unstructured.Unstructured{Object: gateway}
	api := c.Dynamic.Resource(gatewayResource()).Namespace(u.GetNamespace())
	have, err := api.Get(ctx, u.GetName(), metav1.GetOptions{})
	if err == nil {
		if class, _, _ := unstructured.NestedString(have.Object, "spec", "gatewayClassName"); class != WaypointClass {
			return fmt.Errorf("there is a Gateway %s/%s of class %q already: give the waypoint another name",
				u.GetNamespace(), u.GetName(), class)
		}
	} else if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read Gateway %s/%s: %w", u.GetNamespace(), u.GetName(), err)
	}
	_, err = api.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return fmt.Errorf("apply Gateway %s/%s: %w", u.GetNamespace(), u.GetName(), err)
	}
	return nil
}

// DeleteGateway deletes a waypoint's Gateway, and with it all that runs for it.
func (c *Cluster) DeleteGateway(ctx context.Context, namespace, name string) error {
	background := metav1.DeletePropagationBackground
	api := c.Dynamic.Resource(gatewayResource()).Namespace(namespace)
	err := api.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Gateway %s/%s: %w", namespace, name, err)
	}
	return nil
}

// EnrollNamespace makes what is sent to a namespace go through its waypoint. It returns the waypoint that it used before.
func (c *Cluster) EnrollNamespace(ctx context.Context, namespace, waypoint string) (before string, err error) {
	have, err := c.Client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read namespace %s: %w", namespace, err)
	}
	labels := map[string]any{UseWaypoint: waypoint, UseWaypointIn: nil}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return "", err
	}
	opts := metav1.PatchOptions{FieldManager: fieldManager}
	_, err = c.Client.CoreV1().Namespaces().Patch(ctx, namespace, types.MergePatchType, patch, opts)
	if err != nil {
		return "", fmt.Errorf("label namespace %s: %w", namespace, err)
	}
	return have.Labels[UseWaypoint], nil
}

// WaypointWaiting says why pods of a waypoint are not ready, sorted.
func (c *Cluster) WaypointWaiting(ctx context.Context, namespace, name string) ([]string, error) {
	pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: gatewayName + "=" + name})
	if err != nil {
		return nil, fmt.Errorf("list the pods of waypoint %s/%s: %w", namespace, name, err)
	}
	events, err := c.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning", Limit: 1000})
	if err != nil {
		events = &corev1.EventList{} // they only explain
	}
	warned := newestWarnings(events.Items)
	var out []string
	for i := range pods.Items {
		p := &pods.Items[i]
		if why := notReady(p, warned["Pod/"+p.Name]); why != "" {
			out = append(out, cmp.Or(p.Spec.NodeName, "no node")+": "+why)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
