package cluster

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GatewayAPI is which CRDs of the Gateway API a cluster has.
type GatewayAPI struct {
	Installed bool
	// Version is the release they are of, such as v1.4.0, and Channel standard or experimental; both are "" if the CRDs do
	// not say.
	Version, Channel string
	// Served are the versions of Gateway that are served.
	Served []string
}

func (c *Cluster) lookGatewayAPI(ctx context.Context, f *Facts) error {
	o, err := c.Dynamic.Resource(crdResource()).Get(ctx, gatewayCRD, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read CRD %s: %w", gatewayCRD, err)
	}
	f.GatewayAPI = GatewayAPI{Installed: true, Version: o.GetAnnotations()[gatewayGroup+"/bundle-version"],
		Channel: o.GetAnnotations()[gatewayGroup+"/channel"]}
	versions, _ := dig(o.Object, "spec", "versions").([]any)
	for _, v := range versions {
		if served, _ := dig(v, "served").(bool); served {
			f.GatewayAPI.Served = append(f.GatewayAPI.Served, fmt.Sprint(dig(v, "name")))
		}
	}
	return nil
}

// waypointKind is one kind of what the controller makes for waypoints.
func waypointKinds() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"},
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Version: "v1", Resource: "services"},
		{Version: "v1", Resource: "configmaps"},
		{Version: "v1", Resource: "serviceaccounts"},
	}
}

// SweepWaypoints deletes what runs for waypoints, in every namespace, and the class: what a controller that leaves has
// done already, and one that could not has not. Gateways stay: they are their authors'.
func (c *Cluster) SweepWaypoints(ctx context.Context) (deleted []string, err error) {
	selector := managedBy + "=" + controllerManagedBy + "," + gatewayClass + "=" + WaypointClass
	background := metav1.DeletePropagationBackground
	for _, kind := range waypointKinds() {
		list, err := c.Dynamic.Resource(kind).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return deleted, fmt.Errorf("list the waypoints' %s: %w", kind.Resource, err)
		}
		for _, o := range list.Items {
			api := c.Dynamic.Resource(kind).Namespace(o.GetNamespace())
			err := api.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
			if err != nil && !apierrors.IsNotFound(err) {
				return deleted, fmt.Errorf("delete %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
			}
			deleted = append(deleted, fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()))
		}
	}
	classes := c.Dynamic.Resource(schema.GroupVersionResource{Group: gatewayGroup, Version: "v1", Resource: "gatewayclasses"})
	class, err := classes.Get(ctx, WaypointClass, metav1.GetOptions{})
	if err == nil && class.GetLabels()[managedBy] == controllerManagedBy {
		if err = classes.Delete(ctx, WaypointClass, metav1.DeleteOptions{}); err == nil {
			deleted = append(deleted, "GatewayClass "+WaypointClass)
		}
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return deleted, fmt.Errorf("delete GatewayClass %s: %w", WaypointClass, err)
	}
	return deleted, nil
}
