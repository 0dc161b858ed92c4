package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/internal/cluster"
)

// objectServer answers lists of the objects that it has, over all namespaces. As an API server does, it has an empty list of
// a built-in kind, and knows no other kind that it has no object of.
func objectServer(t *testing.T, manifests string) *cluster.Cluster {
	t.Helper()
	lists := map[string]*unstructured.UnstructuredList{}
	add := func(apiVersion, kind string) *unstructured.UnstructuredList {
		path := "/apis/" + apiVersion + "/" + strings.ToLower(kind) + "s"
		if apiVersion == "v1" {
			path = "/api/v1/" + strings.ToLower(kind) + "s"
		}
		if lists[path] == nil {
			lists[path] = &unstructured.UnstructuredList{}
			lists[path].SetAPIVersion(apiVersion)
			lists[path].SetKind(kind + "List")
		}
		return lists[path]
	}
	add("v1", "ConfigMap")
	add("v1", "Namespace")
	add("apps/v1", "DaemonSet")
	add("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration")
	for _, doc := range strings.Split("\n"+manifests, "\n---") {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			t.Fatalf("%v in %s", err, doc)
		}
		if len(o.Object) > 0 {
			list := add(o.GetAPIVersion(), o.GetKind())
			list.Items = append(list.Items, o)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		list, ok := lists[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404})
			return
		}
		answer := list.DeepCopy()
		if selector := r.URL.Query().Get("fieldSelector"); selector != "" {
			name, ok := strings.CutPrefix(selector, "metadata.name=")
			if !ok {
				t.Errorf("asked for %s", selector)
			}
			answer.Items = slices.DeleteFunc(answer.Items, func(o unstructured.Unstructured) bool { return o.GetName() != name })
		}
		_ = json.NewEncoder(w).Encode(answer.UnstructuredContent())
	}))
	t.Cleanup(s.Close)
	cfg := &rest.Config{Host: s.URL}
	return &cluster.Cluster{Client: kubernetes.NewForConfigOrDie(cfg), Dynamic: dynamic.NewForConfigOrDie(cfg), Namespace: "warren-system"}
}
