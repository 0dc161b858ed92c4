package waypoints

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// group is the version of the Gateway API's kinds that is read and written.
func group() schema.GroupVersion {
	return schema.GroupVersion{Group: gatewayv1.GroupName, Version: "v1"}
}

func classes() schema.GroupVersionResource {
	return group().WithResource("gatewayclasses")
}

// putClass makes the GatewayClass if it is not there, and accepts it. One of another controller's is left alone.
func (m *Manager) putClass(ctx context.Context) error {
	api := m.cfg.Dynamic.Resource(classes())
	u, err := api.Get(ctx, Class, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		u = &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": gatewayv1.GroupVersion.String(), "kind": "GatewayClass",
			"metadata": map[string]any{"name": Class, "labels": map[string]any{managedBy: managedByUs, partOf: "warren"}},
			"spec": map[string]any{"controllerName": ControllerName,
				"description": "Warren's waypoints: L7 routing and policy inside the mesh"},
		}}
		u, err = api.Create(ctx, u, metav1.CreateOptions{FieldManager: manager})
	}
	if err != nil {
		return fmt.Errorf("GatewayClass %s: %w", Class, err)
	}
	class := new(gatewayv1.GatewayClass)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, class); err != nil {
		return fmt.Errorf("GatewayClass %s: %w", Class, err)
	}
	if class.Spec.ControllerName != ControllerName {
		return fmt.Errorf("GatewayClass %s is of controller %q, not %q: delete it, and it is made anew",
			Class, class.Spec.ControllerName, ControllerName)
	}
	accepted := metav1.Condition{Type: string(gatewayv1.GatewayClassConditionStatusAccepted), Status: metav1.ConditionTrue,
		Reason: string(gatewayv1.GatewayClassReasonAccepted), Message: "Gateways of this class are waypoints",
		ObservedGeneration: class.Generation}
	same := slices.Equal(class.Status.SupportedFeatures, supportedFeatures())
	if !meta.SetStatusCondition(&class.Status.Conditions, accepted) && same {
		return nil
	}
	class.Status.SupportedFeatures = supportedFeatures()
	if u.Object, err = runtime.DefaultUnstructuredConverter.ToUnstructured(class); err != nil {
		return fmt.Errorf("GatewayClass %s: %w", Class, err)
	}
	u.SetGroupVersionKind(group().WithKind("GatewayClass"))
	if _, err = api.UpdateStatus(ctx, u, metav1.UpdateOptions{FieldManager: manager}); err != nil {
		return fmt.Errorf("write the status of GatewayClass %s: %w", Class, err)
	}
	return nil
}

// removeClass deletes the class if we made it.
func (m *Manager) removeClass(ctx context.Context) error {
	api := m.cfg.Dynamic.Resource(classes())
	u, err := api.Get(ctx, Class, metav1.GetOptions{})
	if err == nil && u.GetLabels()[managedBy] == managedByUs {
		err = api.Delete(ctx, Class, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete GatewayClass %s: %w", Class, err)
	}
	return nil
}
