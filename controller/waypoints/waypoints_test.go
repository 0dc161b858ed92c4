package waypoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// world is a cluster whose API server merges applied fields as a real one does, and a manager that runs on it. It has no
// kubelet and no controller but ours: who makes pods ready, deletes what has no owner and scales is the test.
type world struct {
	t       *testing.T
	client  *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	manager *Manager
	leaving atomic.Bool
}

const (
	shop   = "shop"
	roots1 = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
)

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	lists := map[schema.GroupVersionResource]string{gateways(): "GatewayList", classes(): "GatewayClassList"}
	w := &world{t: t, client: fake.NewClientset(objects...), dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists)}
	w.dynamic.PrependReactor("update", "gateways", w.statusAlone)
	var err error
	w.manager, err = New(Config{
		Client: w.client, Dynamic: w.dynamic, Namespace: "warren-system", Controller: "warren-controller.warren-system.svc:15012",
		TrustDomain: "cluster.local", Roots: []byte(roots1), Leaving: w.leaving.Load, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Template: Template{Image: "registry.example.org/warren-waypoint:v1", Drain: 30 * time.Second, Args: []string{"--log-level=info"},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the manager ended with %v", err)
		}
	})
	return w
}

// gateway is a waypoint's, as agentctl writes it.
func gateway(name string, edit ...func(*gatewayv1.Gateway)) *gatewayv1.Gateway {
	gw := &gatewayv1.Gateway{
		TypeMeta:   metav1.TypeMeta{APIVersion: "gateway.networking.k8s.io/v1", Kind: "Gateway"},
		ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: name, UID: types.UID("uid-of-" + name), Generation: 1, Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec: gatewayv1.GatewaySpec{GatewayClassName: Class,
			Listeners: []gatewayv1.Listener{{Name: "mesh", Port: PortHBONE, Protocol: protocolHBONE}}},
	}
	for _, e := range edit {
		e(gw)
	}
	return gw
}

func unstructuredOf(t *testing.T, o any) *unstructured.Unstructured {
	t.Helper()
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	return &unstructured.Unstructured{Object: raw}
}

func (w *world) create(gw *gatewayv1.Gateway) {
	w.t.Helper()
	_, err := w.dynamic.Resource(gateways()).Namespace(gw.Namespace).Create(context.Background(), unstructuredOf(w.t, gw), metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

// edit changes a Gateway's text, which makes it another generation.
func (w *world) edit(name string, change func(*gatewayv1.Gateway)) {
	w.t.Helper()
	w.eventually("the Gateway can be edited", func() error {
		gw, err := w.read(name)
		if err != nil {
			return err
		}
		change(gw)
		gw.Generation++
		_, err = w.dynamic.Resource(gateways()).Namespace(shop).Update(context.Background(), unstructuredOf(w.t, gw), metav1.UpdateOptions{})
		return err
	})
}

// statusAlone writes of a status nothing but the status, as an API server does: a late one must not undo a spec.
func (w *world) statusAlone(a clienttesting.Action) (handled bool, _ runtime.Object, _ error) {
	update, ok := a.(clienttesting.UpdateAction)
	if !ok || a.GetSubresource() != "status" {
		return false, nil, nil
	}
	said := update.GetObject().(*unstructured.Unstructured)
	have, err := w.dynamic.Tracker().Get(gateways(), said.GetNamespace(), said.GetName())
	if err != nil {
		return true, nil, err
	}
	now := have.(*unstructured.Unstructured).DeepCopy()
	now.Object["status"] = said.Object["status"]
	return true, now, w.dynamic.Tracker().Update(gateways(), now, said.GetNamespace())
}

func (w *world) read(name string) (*gatewayv1.Gateway, error) {
	u, err := w.dynamic.Resource(gateways()).Namespace(shop).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return gatewayOf(u)
}

func (w *world) eventually(what string, f func() error) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// condition waits for a condition, "Programmed=True/Programmed: 2 of 2", by its beginning.
func (w *world) condition(name, want string) {
	w.t.Helper()
	w.eventually("Gateway "+name+" says "+want, func() error {
		gw, err := w.read(name)
		if err != nil {
			return err
		}
		var all []string
		for _, c := range gw.Status.Conditions {
			text := fmt.Sprintf("%s=%s/%s: %s", c.Type, c.Status, c.Reason, c.Message)
			if strings.HasPrefix(text, want) && c.ObservedGeneration == gw.Generation {
				return nil
			}
			all = append(all, text)
		}
		return fmt.Errorf("it says %q", all)
	})
}

func (w *world) deployment(name string) *appsv1.Deployment {
	w.t.Helper()
	var d *appsv1.Deployment
	w.eventually("Deployment "+name, func() (err error) {
		d, err = w.client.AppsV1().Deployments(shop).Get(context.Background(), name, metav1.GetOptions{})
		return err
	})
	return d
}

// run does what Kubernetes would: the pods are ready and the Service has an address.
func (w *world) run(name string, ready int32) {
	w.t.Helper()
	ctx := context.Background()
	w.eventually("what runs it", func() error {
		d, err := w.client.AppsV1().Deployments(shop).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		d.Status.ReadyReplicas = ready
		if _, err := w.client.AppsV1().Deployments(shop).UpdateStatus(ctx, d, metav1.UpdateOptions{}); err != nil {
			return err
		}
		s, err := w.client.CoreV1().Services(shop).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s.Spec.ClusterIPs = []string{"10.96.0.9", "fd00::9"}
		_, err = w.client.CoreV1().Services(shop).Update(ctx, s, metav1.UpdateOptions{})
		return err
	})
}

func TestAGatewayBecomesAWaypoint(t *testing.T) {
	w := newWorld(t)
	w.create(gateway("waypoint", func(gw *gatewayv1.Gateway) {
		gw.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{
			Labels:      map[gatewayv1.LabelKey]gatewayv1.LabelValue{"team": "shop", "warren.dev/mesh": "enabled", LabelGateway: "other"},
			Annotations: map[gatewayv1.AnnotationKey]gatewayv1.AnnotationValue{"note": "x"},
		}
	}))
	w.condition("waypoint", "Accepted=True/Accepted")
	w.condition("waypoint", "Programmed=False/AddressNotAssigned")
	w.run("waypoint", 0)
	w.condition("waypoint", "Programmed=False/Pending: 0 of 2 pods are ready")
	w.run("waypoint", 1)
	w.condition("waypoint", "Programmed=True/Programmed: 1 of 2 pods are ready")
	gw, err := w.read("waypoint")
	if err != nil {
		t.Fatal(err)
	}
	if a := gw.Status.Addresses; len(a) != 2 || a[0].Value != "10.96.0.9" || a[1].Value != "fd00::9" {
		t.Errorf("its addresses are %+v", a)
	}
	l := gw.Status.Listeners
	if len(l) != 1 || l[0].Name != "mesh" || len(l[0].SupportedKinds) != 4 || !meta.IsStatusConditionTrue(l[0].Conditions, "Programmed") ||
		!meta.IsStatusConditionTrue(l[0].Conditions, "ResolvedRefs") || meta.IsStatusConditionTrue(l[0].Conditions, "Conflicted") {
		t.Errorf("its listeners are %+v", l)
	}
	w.belongs("waypoint")
	pod := w.deployment("waypoint").Spec.Template
	if pod.Labels["team"] != "shop" || pod.Labels["warren.dev/mesh"] != "" || pod.Labels[LabelGateway] != "waypoint" || pod.Annotations["note"] != "x" {
		t.Errorf("its pods have labels %v, annotations %v", pod.Labels, pod.Annotations)
	}
}

// belongs checks that everything there is goes with the Gateway.
func (w *world) belongs(name string) {
	w.t.Helper()
	ctx, c := context.Background(), w.client
	for kind, get := range map[string]func() (metav1.Object, error){
		"Deployment": func() (metav1.Object, error) { return c.AppsV1().Deployments(shop).Get(ctx, name, metav1.GetOptions{}) },
		"Service":    func() (metav1.Object, error) { return c.CoreV1().Services(shop).Get(ctx, name, metav1.GetOptions{}) },
		"ServiceAccount": func() (metav1.Object, error) {
			return c.CoreV1().ServiceAccounts(shop).Get(ctx, name, metav1.GetOptions{})
		},
		"PodDisruptionBudget": func() (metav1.Object, error) {
			return c.PolicyV1().PodDisruptionBudgets(shop).Get(ctx, name, metav1.GetOptions{})
		},
		"ConfigMap": func() (metav1.Object, error) { return c.CoreV1().ConfigMaps(shop).Get(ctx, Roots, metav1.GetOptions{}) },
	} {
		o, err := get()
		if err != nil {
			w.t.Error(err)
			continue
		}
		refs := o.GetOwnerReferences()
		if len(refs) != 1 || refs[0].Kind != "Gateway" || string(refs[0].UID) != "uid-of-"+name || refs[0].APIVersion != "gateway.networking.k8s.io/v1" {
			w.t.Errorf("%s is owned by %+v", kind, refs)
		}
	}
}

// TestAPodMayDoNothing but what a waypoint needs: it passes the Pod Security level "restricted".
func TestAPodMayDoNothing(t *testing.T) {
	w := newWorld(t)
	w.create(gateway("waypoint"))
	d := w.deployment("waypoint")
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	if len(pod.Containers) != 1 || pod.ServiceAccountName != "waypoint" || *pod.AutomountServiceAccountToken || pod.HostNetwork || !*pod.SecurityContext.RunAsNonRoot ||
		pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || !*c.SecurityContext.ReadOnlyRootFilesystem ||
		*c.SecurityContext.AllowPrivilegeEscalation || len(c.SecurityContext.Capabilities.Add) > 0 || c.SecurityContext.Capabilities.Drop[0] != "ALL" {
		t.Errorf("the pod is %+v", pod)
	}
	token := pod.Volumes[2].Projected.Sources[0].ServiceAccountToken
	if token.Audience != Audience || *token.ExpirationSeconds != 3600 {
		t.Errorf("its token is %+v", token)
	}
	if grace := *pod.TerminationGracePeriodSeconds; grace < 36 {
		t.Errorf("it may stop for %d s only", grace)
	}
	if r := d.Spec.Strategy.RollingUpdate; r.MaxUnavailable.IntValue() != 0 || r.MaxSurge.IntValue() != 1 {
		t.Errorf("it is rolled out by %+v", r)
	}
	args := strings.Join(c.Args, " ")
	for _, want := range []string{"--gateway=shop/waypoint", "--workload-uid=$(POD_UID)", "--pod=$(POD_NAME)", "--service-account=waypoint", "--drain=30s", "--log-level=info", "--trust-domain=cluster.local"} {
		if !strings.Contains(args, want) {
			t.Errorf("its arguments lack %s: %s", want, args)
		}
	}
}

// TestWhatIsSomebodyElsesIsNeverOverwritten, whichever kind has the name.
func TestWhatIsSomebodyElsesIsNeverOverwritten(t *testing.T) {
	taken := metav1.ObjectMeta{Namespace: shop, Name: "waypoint", Labels: map[string]string{"mine": "yes"}}
	for kind, o := range map[string]runtime.Object{
		"ServiceAccount": &corev1.ServiceAccount{ObjectMeta: taken},
		"Service":        &corev1.Service{ObjectMeta: taken, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}},
		"Deployment":     &appsv1.Deployment{ObjectMeta: taken},
		"ConfigMap":      &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: shop, Name: Roots}, Data: map[string]string{"a": "b"}},
	} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, o)
			w.create(gateway("waypoint"))
			w.condition("waypoint", "Accepted=True")
			w.condition("waypoint", "Programmed=False/NameTaken: the name is taken: there is a "+kind+" shop/")
			a, err := meta.Accessor(o)
			if err != nil {
				t.Fatal(err)
			}
			now, err := w.client.Tracker().Get(resourceOf(kind), shop, a.GetName())
			if err != nil {
				t.Fatal(err)
			}
			b, _ := meta.Accessor(now)
			if len(b.GetOwnerReferences()) > 0 || b.GetLabels()[managedBy] != "" {
				t.Errorf("it was changed: %+v", b)
			}
			if found, err := w.manager.Remove(context.Background()); err != nil {
				t.Errorf("%d were left: %v", found, err)
			}
			if _, err := w.client.Tracker().Get(resourceOf(kind), shop, a.GetName()); err != nil {
				t.Errorf("when the mesh left it went too: %v", err)
			}
		})
	}
}

// TestWhatSomebodyChangesIsPutRight: the Deployment's image, and an object that was deleted.
func TestWhatSomebodyChangesIsPutRight(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.create(gateway("waypoint"))
	w.condition("waypoint", "Accepted=True")
	d := w.deployment("waypoint")
	image := d.Spec.Template.Spec.Containers[0].Image
	d.Generation++ // as an API server would
	d.Spec.Template.Spec.Containers[0].Image = "evil:1"
	if _, err := w.client.AppsV1().Deployments(shop).Update(ctx, d, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the image is put right", func() error {
		if got := w.deployment("waypoint").Spec.Template.Spec.Containers[0].Image; got != image {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	if err := w.client.PolicyV1().PodDisruptionBudgets(shop).Delete(ctx, "waypoint", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the budget comes back", func() error {
		_, err := w.client.PolicyV1().PodDisruptionBudgets(shop).Get(ctx, "waypoint", metav1.GetOptions{})
		return err
	})
}

// TestAnAutoscalerTakesOverWithoutADip: a Deployment whose replicas nobody states any more would fall to one pod.
func TestAnAutoscalerTakesOverWithoutADip(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.create(gateway("waypoint", func(gw *gatewayv1.Gateway) { gw.Annotations[AnnotationReplicas] = "4" }))
	w.condition("waypoint", "Accepted=True")
	if n := *w.deployment("waypoint").Spec.Replicas; n != 4 {
		t.Fatalf("it has %d pods", n)
	}
	w.edit("waypoint", func(gw *gatewayv1.Gateway) {
		gw.Annotations[AnnotationReplicas], gw.Annotations[AnnotationTargetCPU] = "2-10", "70"
	})
	w.eventually("there is an autoscaler", func() error {
		h, err := w.client.AutoscalingV2().HorizontalPodAutoscalers(shop).Get(ctx, "waypoint", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if *h.Spec.MinReplicas != 2 || h.Spec.MaxReplicas != 10 || *h.Spec.Metrics[0].Resource.Target.AverageUtilization != 70 {
			return fmt.Errorf("it says %+v", h.Spec)
		}
		return nil
	})
	w.eventually("the replicas are handed over", func() error {
		d := w.deployment("waypoint")
		if d.Spec.Replicas == nil || *d.Spec.Replicas != 4 {
			t.Fatalf("the replicas are %v", d.Spec.Replicas)
		}
		if writesReplicas(d) {
			return errors.New("they are still ours")
		}
		return nil
	})
	w.edit("waypoint", func(gw *gatewayv1.Gateway) {
		delete(gw.Annotations, AnnotationTargetCPU)
		gw.Annotations[AnnotationReplicas] = "3"
	})
	w.eventually("the autoscaler goes", func() error {
		_, err := w.client.AutoscalingV2().HorizontalPodAutoscalers(shop).Get(ctx, "waypoint", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %v", err)
		}
		if n := *w.deployment("waypoint").Spec.Replicas; n != 3 {
			return fmt.Errorf("it has %d pods", n)
		}
		return nil
	})
}
