package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/warren-mesh/warren/controller/manifest"
)

// maxParentStatuses is the Gateway API's bound of a route's status.
const maxParentStatuses = 32

// Route is one route of the Gateway API as the API server has it.
type Route struct {
	manifest.Key
	UID        string
	Generation int64
	Rejected   string // why its newest content is not in force, "" if it is
	Stated     bool   // its status has an entry of ours
}

// RouteParent is what is said of a route at one parent.
type RouteParent struct {
	Ref        manifest.ParentRef
	Conditions []metav1.Condition
}

// routeParentStatus is an entry of a route's status.
type routeParentStatus struct {
	ParentRef      manifest.ParentRef `json:"parentRef"`
	ControllerName string             `json:"controllerName"`
	Conditions     []metav1.Condition `json:"conditions"`
}

// Routes returns every route, also other controllers'.
func (c *Cluster) Routes() (out []Route) {
	for _, s := range c.source.stores {
		if manifest.IsRoute(s.kind) {
			out = append(out, s.routes()...)
		}
	}
	return out
}

func (s *store) routes() (out []Route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, r := range s.rejected {
		out = append(out, Route{manifest.Key{Kind: s.kind, Namespace: key.namespace, Name: key.name}, r.uid, r.generation, r.reason, s.stated[key]})
	}
	for key, o := range s.objects {
		if _, bad := s.rejected[key]; !bad {
			out = append(out, Route{o.Key, o.Meta.UID, o.Meta.Generation, "", s.stated[key]})
		}
	}
	return out
}

// isStated tells whether a route's status has an entry of ours.
func isStated(obj any) bool {
	o, ok := obj.(*unstructured.Unstructured)
	if !ok || !manifest.IsRoute(o.GetKind()) {
		return false
	}
	parents, _, _ := unstructured.NestedSlice(o.Object, "status", "parents")
	return slices.ContainsFunc(parents, isOurs)
}

func isOurs(entry any) bool {
	m, ok := entry.(map[string]any)
	return ok && m["controllerName"] == manifest.GatewayController
}

// SetRouteStatus writes what became of a route at the parents that are ours, unless it stands there already, and leaves
// other controllers' entries alone. One that is gone, or changed meanwhile, is no error.
func (c *Cluster) SetRouteStatus(ctx context.Context, r Route, parents []RouteParent) error {
	at := c.source.optional.resourceAt(r.Kind)
	if at.Empty() {
		return nil
	}
	api := c.dynamic.Resource(at).Namespace(r.Namespace)
	o, err := api.Get(ctx, r.Name, metav1.GetOptions{})
	if err != nil {
		return routeGone(r, err)
	}
	if o.GetGeneration() != r.Generation || string(o.GetUID()) != r.UID {
		return nil
	}
	if r.Rejected != "" {
		parents = rejectedParents(o, r)
	}
	changed, err := setParents(o, r.Generation, parents)
	if err != nil || !changed {
		return routeGone(r, err)
	}
	_, err = api.UpdateStatus(ctx, o, metav1.UpdateOptions{})
	return routeGone(r, err)
}

func routeGone(r Route, err error) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("write the status of %s: %w", r.Key, err)
}

// rejectedParents says at every service that a route names why it is not accepted as it is now.
func rejectedParents(o *unstructured.Unstructured, r Route) (out []RouteParent) {
	var refs []manifest.ParentRef
	list, _, _ := unstructured.NestedSlice(o.Object, "spec", "parentRefs")
	if !remade(list, &refs) {
		return nil
	}
	for _, ref := range refs {
		if ref.IsService() {
			out = append(out, RouteParent{ref, []metav1.Condition{{
				Type: Accepted, Status: metav1.ConditionFalse, Reason: "UnsupportedValue",
				Message: "what it said last stays in force, if it ever said anything else: " + r.Rejected,
			}}})
		}
	}
	return out
}

// setParents brings the entries of ours in a route's status up to date, each in its place, and tells whether that changed
// anything.
func setParents(o *unstructured.Unstructured, generation int64, parents []RouteParent) (changed bool, err error) {
	before, _, _ := unstructured.NestedSlice(o.Object, "status", "parents")
	after := []any{}
	wanted := slices.Clone(parents)
	for _, entry := range before {
		if !isOurs(entry) {
			after = append(after, entry)
			continue
		}
		var had routeParentStatus
		if !remade(entry, &had) {
			continue
		}
		i := slices.IndexFunc(wanted, func(p RouteParent) bool { return reflect.DeepEqual(p.Ref, had.ParentRef) })
		if i < 0 {
			continue
		}
		if after, err = appendParent(after, wanted[i], had.Conditions, generation); err != nil {
			return false, err
		}
		wanted = slices.Delete(wanted, i, i+1)
	}
	for _, p := range wanted {
		if len(after) == maxParentStatuses {
			break
		}
		if after, err = appendParent(after, p, nil, generation); err != nil {
			return false, err
		}
	}
	if len(before) == len(after) && (len(before) == 0 || reflect.DeepEqual(before, after)) {
		return false, nil
	}
	return true, unstructured.SetNestedSlice(o.Object, after, "status", "parents")
}

// appendParent appends the entry of a parent, whose conditions keep the time since when they are as they are.
func appendParent(to []any, p RouteParent, had []metav1.Condition, generation int64) ([]any, error) {
	status := routeParentStatus{ParentRef: p.Ref, ControllerName: manifest.GatewayController}
	for _, condition := range p.Conditions {
		condition.ObservedGeneration = generation
		if old := meta.FindStatusCondition(had, condition.Type); old != nil {
			status.Conditions = append(status.Conditions, *old)
		}
		meta.SetStatusCondition(&status.Conditions, condition)
	}
	raw, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	var entry map[string]any
	if err := utiljson.Unmarshal(raw, &entry); err != nil { // whole numbers stay whole
		return nil, err
	}
	if ref, ok := entry["parentRef"].(map[string]any); ok {
		maps.DeleteFunc(ref, func(_ string, value any) bool { return value == nil }) // what nobody wrote
	}
	return append(to, entry), nil
}

// remade reads one JSON value as another type; false if it cannot be.
func remade(from, into any) bool {
	raw, err := json.Marshal(from)
	return err == nil && json.Unmarshal(raw, into) == nil
}
