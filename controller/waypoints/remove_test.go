package waypoints

import (
	"context"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func resourceOf(kind string) schema.GroupVersionResource {
	switch kind {
	case "Deployment":
		return schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	case "PodDisruptionBudget":
		return schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"}
	}
	gvr, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Version: "v1", Kind: kind})
	return gvr
}

// absent waits until nothing of a kind is in the namespace.
func (w *world) absent(kind, name string) {
	w.t.Helper()
	w.eventually(kind+" "+name+" is gone", func() error {
		_, err := w.client.Tracker().Get(resourceOf(kind), shop, name)
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
}

// TestNothingIsLeftOfAMeshThatLeaves but the Gateway, which says that nobody cares for it.
func TestNothingIsLeftOfAMeshThatLeaves(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.create(gateway("waypoint", func(gw *gatewayv1.Gateway) { gw.Annotations[AnnotationReplicas] = "2-3" }))
	w.condition("waypoint", "Accepted=True")
	w.run("waypoint", 2)
	w.condition("waypoint", "Programmed=True")
	w.leaving.Store(true)
	w.eventually("all is removed", func() error {
		found, err := w.manager.Remove(ctx)
		if err == nil && found > 0 {
			err = fmt.Errorf("there were %d objects", found)
		}
		return err
	})
	for _, kind := range []string{"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"} {
		w.absent(kind, "waypoint")
	}
	w.absent("ConfigMap", Roots)
	w.eventually("the Gateway is nobody's", func() error {
		gw, err := w.read("waypoint")
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(gw.Status.Conditions, "Programmed")
		if c == nil || c.Status != metav1.ConditionUnknown || len(gw.Status.Addresses) > 0 || len(gw.Status.Listeners) > 0 {
			return fmt.Errorf("its status is %+v", gw.Status)
		}
		return nil
	})
	if _, err := w.dynamic.Resource(classes()).Get(ctx, Class, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the class is there: %v", err)
	}
	w.edit("waypoint", func(gw *gatewayv1.Gateway) { gw.Labels = map[string]string{"touched": "yes"} })
	time.Sleep(300 * time.Millisecond) // for what must not happen there is nothing to wait for
	if d, err := w.client.AppsV1().Deployments(shop).Get(ctx, "waypoint", metav1.GetOptions{}); err == nil {
		t.Errorf("while the mesh leaves a Deployment is made: %v", d.Name)
	}
	w.leaving.Store(false) // and it comes back
	w.deployment("waypoint")
}

func TestAGatewayOfAnotherClassHasNoWaypoint(t *testing.T) {
	w := newWorld(t)
	w.create(gateway("waypoint"))
	w.create(gateway("second"))
	for _, name := range []string{"waypoint", "second"} {
		w.condition(name, "Programmed=False")
	}
	w.edit("waypoint", func(gw *gatewayv1.Gateway) { gw.Spec.GatewayClassName = "other" })
	for _, kind := range []string{"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"} {
		w.absent(kind, "waypoint")
	}
	if _, err := w.client.CoreV1().ConfigMaps(shop).Get(context.Background(), Roots, metav1.GetOptions{}); err != nil {
		t.Errorf("the other waypoint's roots went: %v", err)
	}
	w.edit("second", func(gw *gatewayv1.Gateway) { gw.Spec.GatewayClassName = "other" })
	w.absent("ConfigMap", Roots)
	w.absent("Deployment", "second")
}

// TestWhatAGatewaySaysWrong is on the Gateway, and what ran before goes on running.
func TestWhatAGatewaySaysWrong(t *testing.T) {
	w := newWorld(t)
	w.create(gateway("waypoint"))
	w.condition("waypoint", "Accepted=True")
	host := gatewayv1.Hostname("shop.example.org")
	for want, change := range map[string]func(*gatewayv1.Gateway){
		"Accepted=False/InvalidParameters: its annotation warren.dev/waypoint-replicas must be": func(gw *gatewayv1.Gateway) { gw.Annotations = map[string]string{AnnotationReplicas: "5-2"} },
		"Accepted=False/InvalidParameters: its label warren.dev/waypoint-for must be":           func(gw *gatewayv1.Gateway) { gw.Labels = map[string]string{LabelFor: "everything"} },
		"Accepted=False/InvalidParameters: spec.infrastructure.parametersRef": func(gw *gatewayv1.Gateway) {
			gw.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{ParametersRef: &gatewayv1.LocalParametersReference{Kind: "ConfigMap", Name: "x"}}
		},
		"Accepted=False/UnsupportedAddress": func(gw *gatewayv1.Gateway) {
			gw.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: "10.0.0.1"}}
		},
		"Accepted=False/ListenersNotValid: a waypoint needs a listener": func(gw *gatewayv1.Gateway) { gw.Spec.Listeners[0].Protocol = "HTTP" },
		"Accepted=True/ListenersNotValid": func(gw *gatewayv1.Gateway) {
			gw.Spec.Listeners = append(gw.Spec.Listeners, gatewayv1.Listener{Name: "web", Port: 15008, Protocol: "HBONE", Hostname: &host})
		},
	} {
		w.edit("waypoint", change)
		w.condition("waypoint", want)
		w.deployment("waypoint")
		w.edit("waypoint", func(gw *gatewayv1.Gateway) {
			good := gateway("waypoint")
			gw.Spec, gw.Annotations, gw.Labels = good.Spec, good.Annotations, good.Labels
		})
		w.condition("waypoint", "Accepted=True/Accepted")
	}
}

func TestHowManyPods(t *testing.T) {
	for _, c := range []struct {
		replicas, cpu     string
		want, max, target int32
		refused           bool
	}{
		{"", "", 2, 0, 80, false}, {"1", "", 1, 0, 80, false}, {"2-10", "", 2, 10, 80, false}, {"2-10", "55", 2, 10, 55, false},
		{"3-3", "", 3, 3, 80, false}, {"0", "", 0, 0, 0, true}, {"-1", "", 0, 0, 0, true}, {"two", "", 0, 0, 0, true}, {"2-", "", 0, 0, 0, true},
		{"1001", "", 0, 0, 0, true}, {"10-2", "", 0, 0, 0, true}, {"2", "80", 0, 0, 0, true}, {"2-4", "0", 0, 0, 0, true}, {"99999999999", "", 0, 0, 0, true},
	} {
		gw := gateway("waypoint")
		if c.replicas != "" {
			gw.Annotations[AnnotationReplicas] = c.replicas
		}
		if c.cpu != "" {
			gw.Annotations[AnnotationTargetCPU] = c.cpu
		}
		w, refused := read(gw, Template{Replicas: 2})
		if (refused != nil) != c.refused || refused == nil && (w.replicas != c.want || w.max != c.max || w.cpu != c.target) {
			t.Errorf("%q %q: got %d to %d at %d %%, refused %v", c.replicas, c.cpu, w.replicas, w.max, w.cpu, refused)
		}
	}
}
