package kube

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/cache"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// policyObject is as an API server sends it: with what nobody wrote.
func policyObject(generation int64, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.APIVersion, "kind": v1alpha1.KindAuthorizationPolicy,
		"metadata": map[string]any{
			"name": "p", "namespace": "shop", "uid": "u-1", "generation": generation, "resourceVersion": "77",
			"creationTimestamp": "2026-01-02T03:04:05Z",
			"managedFields":     []any{map[string]any{"manager": "kubectl", "operation": "Apply"}},
			"annotations":       map[string]any{"kubectl.kubernetes.io/last-applied-configuration": "{}"},
		},
		"spec":   spec,
		"status": map[string]any{"conditions": []any{map[string]any{"type": "Accepted", "status": "True"}}},
	}}
}

func allow(port int64) map[string]any {
	return map[string]any{"action": "ALLOW", "rules": []any{map[string]any{"to": []any{map[string]any{"operation": map[string]any{"ports": []any{port}}}}}}}
}

func TestAPolicyOfTheAPIServerIsReadAsAManifestIs(t *testing.T) {
	o, err := convert(policyObject(3, allow(80)))
	if err != nil {
		t.Fatal(err)
	}
	spec, ok := o.Spec.(*v1alpha1.AuthorizationPolicySpec)
	if !ok || o.Meta.Generation != 3 || o.Meta.UID != "u-1" || o.Meta.CreationTimestamp != "2026-01-02T03:04:05Z" {
		t.Fatalf("got %+v, %T", o, o.Spec)
	}
	if spec.Action != "ALLOW" || len(spec.Rules) != 1 {
		t.Errorf("spec is %+v", spec)
	}
	if o.Origin.String() != "kubernetes" {
		t.Errorf("origin is %q", o.Origin)
	}
}

// TestABadPolicyKeepsWhatItSaidLast also over a restart of the watch, and not for another object of the same name.
func TestABadPolicyKeepsWhatItSaidLast(t *testing.T) {
	changes := 0
	s := newStore(manifest.KindAuthorizationPolicy, func() { changes++ })
	steps := []struct {
		name     string
		do       func() error
		objects  int
		rejected bool
	}{
		{"good", func() error { return s.Add(policyObject(1, allow(80))) }, 1, false},
		{"bad", func() error { return s.Update(policyObject(2, map[string]any{"action": "LIMIT"})) }, 1, true},
		{"bad in a new list", func() error { return s.Replace([]any{policyObject(2, map[string]any{"action": "LIMIT"})}, "") }, 1, true},
		{"good again", func() error { return s.Update(policyObject(3, allow(81))) }, 1, false},
		{"deleted", func() error {
			return s.Delete(cache.DeletedFinalStateUnknown{Key: "shop/p", Obj: policyObject(3, allow(81))})
		}, 0, false},
		{"never good", func() error { return s.Add(policyObject(1, map[string]any{"action": "LIMIT"})) }, 0, true},
	}
	for _, step := range steps {
		before := changes
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		var r manifest.Result
		s.read(&r)
		if len(r.Objects) != step.objects || (len(r.Rejected) > 0) != step.rejected || changes == before {
			t.Errorf("%s: %d objects, rejected %q, %d changes", step.name, len(r.Objects), r.Rejected, changes-before)
		}
		if step.rejected && !strings.Contains(strings.Join(r.Rejected, ""), "AuthorizationPolicy shop/p: spec.action") {
			t.Errorf("%s: %q does not name object and field", step.name, r.Rejected)
		}
	}
}

// TestNothingIsKnownBeforeTheFirstList: to publish less than there is would take policies back.
func TestNothingIsKnownBeforeTheFirstList(t *testing.T) {
	s := newStore(manifest.KindAuthorizationPolicy, func() {})
	var r manifest.Result
	if s.read(&r); !r.Incomplete {
		t.Error("a store that was never filled is complete")
	}
	if err := s.Replace(nil, ""); err != nil {
		t.Fatal(err)
	}
	r = manifest.Result{}
	if s.read(&r); r.Incomplete {
		t.Error("an empty list is not taken for an answer")
	}
}

func TestPodsAndServicesKeepWhatTheMeshNeeds(t *testing.T) {
	deleted := metav1.NewTime(time.Unix(1_800_000_000, 0))
	o, err := convert(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-0", Namespace: "shop", UID: "picture", DeletionTimestamp: &deleted,
			Annotations: map[string]string{mirrorAnnotation: "0123456789abcdef0123456789abcdef", "big": "x"},
		},
		Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "web", Containers: []corev1.Container{
			{Name: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, {ContainerPort: 9}}},
			{Name: "no ports"},
		}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	pod := o.Spec.(*manifest.Pod)
	if o.Meta.UID != "0123456789abcdef0123456789abcdef" {
		t.Errorf("a static pod's uid is %q: its node knows it by another", o.Meta.UID)
	}
	if o.Meta.DeletionTimestamp == "" || len(o.Meta.Annotations) != 0 || len(pod.Status.IPs()) != 2 || len(pod.Spec.Containers) != 1 || len(pod.Spec.Containers[0].Ports) != 1 {
		t.Errorf("got %+v, %+v", o.Meta, pod)
	}
	o, err = convert(&corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
		{Port: 80, TargetPort: intstr.FromString("http"), NodePort: 30080}, {Port: 81, TargetPort: intstr.FromInt32(8081), AppProtocol: new("kubernetes.io/h2c")},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	ports := o.Spec.(*manifest.Service).Ports
	if ports[0].TargetPort.Name != "http" || ports[0].NodePort != 30080 || ports[1].TargetPort.Number != 8081 || ports[1].AppProtocol != "kubernetes.io/h2c" {
		t.Errorf("ports are %+v", ports)
	}
}
