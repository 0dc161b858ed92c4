package kube

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/warren-mesh/warren/controller/manifest"
)

// Conditions of policies.
const (
	// Accepted is False if a policy says something impossible; its message says what. What it said last stays in force.
	Accepted = "Accepted"
	// Programmed is True once every agent that has a workload which the policy selects enforces it.
	Programmed = "Programmed"
)

// Policy is one object of ours as the API server has it.
type Policy struct {
	manifest.Key
	UID        string // one that is made anew under the same name is another policy, of the same generation
	Generation int64
	Rejected   string // why it is not accepted, "" if it is
}

// Policies returns every policy.
func (c *Cluster) Policies() (out []Policy) {
	for _, s := range c.source.stores {
		if resourceOf(s.kind).Resource != "" {
			out = append(out, s.policies()...)
		}
	}
	return out
}

// resourceOf is the resource of one of our kinds, the zero value for another.
func resourceOf(kind string) schema.GroupVersionResource {
	switch kind {
	case manifest.KindAuthorizationPolicy:
		return ours("authorizationpolicies")
	case manifest.KindPeerAuthentication:
		return ours("peerauthentications")
	case manifest.KindRequestAuthentication:
		return ours("requestauthentications")
	case manifest.KindTrafficPolicy:
		return ours("trafficpolicies")
	}
	return schema.GroupVersionResource{}
}

func (s *store) policies() (out []Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, r := range s.rejected {
		out = append(out, Policy{manifest.Key{Kind: s.kind, Namespace: key.namespace, Name: key.name}, r.uid, r.generation, r.reason})
	}
	for key, o := range s.objects {
		if _, bad := s.rejected[key]; !bad {
			out = append(out, Policy{o.Key, o.Meta.UID, o.Meta.Generation, ""})
		}
	}
	return out
}

// SetConditions writes a policy's conditions, unless they are there already. One that is gone meanwhile is no error.
func (c *Cluster) SetConditions(ctx context.Context, p Policy, conditions ...metav1.Condition) error {
	api := c.dynamic.Resource(resourceOf(p.Kind)).Namespace(p.Namespace)
	o, err := api.Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return gone(p, err)
	}
	if o.GetGeneration() != p.Generation || string(o.GetUID()) != p.UID {
		return nil // it changed meanwhile: its next condition is another one
	}
	have := conditionsOf(o)
	changed := false
	for _, condition := range conditions {
		condition.ObservedGeneration = p.Generation
		changed = meta.SetStatusCondition(&have, condition) || changed
	}
	if !changed {
		return nil
	}
	list := make([]any, 0, len(have))
	for i := range have {
		raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&have[i])
		if err != nil {
			return gone(p, err)
		}
		list = append(list, raw)
	}
	if err := unstructured.SetNestedSlice(o.Object, list, "status", "conditions"); err != nil {
		return gone(p, err)
	}
	_, err = api.UpdateStatus(ctx, o, metav1.UpdateOptions{})
	return gone(p, err)
}

func gone(p Policy, err error) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("write the status of %s: %w", p.Key, err)
}

// conditionsOf reads what stands there; what cannot be read is written anew.
func conditionsOf(o *unstructured.Unstructured) (out []metav1.Condition) {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range list {
		raw, ok := item.(map[string]any)
		if !ok {
			continue
		}
		var c metav1.Condition
		if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &c) == nil && c.Type != "" {
			out = append(out, c)
		}
	}
	return out
}
