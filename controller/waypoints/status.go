package waypoints

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// outcome is what came of a Gateway.
type outcome struct {
	refused *refusal
	// failed is why its objects are not what they shall be.
	failed error
	// ready of wanted pods are ready.
	ready, wanted int32
	addresses     []string
}

// reasonTaken is ours; the Gateway API has no word for it.
const reasonTaken = "NameTaken"

// status is the whole status of a Gateway. Conditions that are somebody else's stay.
func (o *outcome) status(gw *gatewayv1.Gateway) gatewayv1.GatewayStatus {
	out := *gw.Status.DeepCopy()
	for _, c := range []metav1.Condition{o.accepted(gw), o.programmed()} {
		c.ObservedGeneration, c.Message = gw.Generation, clipped(c.Message)
		meta.SetStatusCondition(&out.Conditions, c)
	}
	out.Addresses = nil
	for _, a := range o.addresses {
		kind := gatewayv1.IPAddressType
		out.Addresses = append(out.Addresses, gatewayv1.GatewayStatusAddress{Type: &kind, Value: a})
	}
	old := out.Listeners
	out.Listeners = nil
	for _, l := range gw.Spec.Listeners {
		s := gatewayv1.ListenerStatus{Name: l.Name}
		if i := slices.IndexFunc(old, func(s gatewayv1.ListenerStatus) bool { return s.Name == l.Name }); i >= 0 {
			s.Conditions = old[i].Conditions
		}
		o.listener(l, &s, gw.Generation)
		out.Listeners = append(out.Listeners, s)
	}
	return out
}

func (o *outcome) accepted(gw *gatewayv1.Gateway) metav1.Condition {
	c := metav1.Condition{Type: string(gatewayv1.GatewayConditionAccepted), Status: metav1.ConditionTrue,
		Reason: string(gatewayv1.GatewayReasonAccepted), Message: "it asks for a waypoint, and every field is understood"}
	switch {
	case o.refused != nil:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(o.refused.reason), o.refused.text
	case slices.ContainsFunc(gw.Spec.Listeners, func(l gatewayv1.Listener) bool { return listenerFault(l) != "" }):
		c.Reason = string(gatewayv1.GatewayReasonListenersNotValid)
		c.Message = "it asks for a waypoint; some of its listeners mean nothing to one, see status.listeners"
	}
	return c
}

func (o *outcome) programmed() metav1.Condition {
	c := metav1.Condition{Type: string(gatewayv1.GatewayConditionProgrammed), Status: metav1.ConditionFalse,
		Reason: string(gatewayv1.GatewayReasonPending), Message: fmt.Sprintf("%d of %d pods are ready", o.ready, o.wanted)}
	switch {
	case o.refused != nil:
		c.Reason = string(gatewayv1.GatewayReasonInvalid)
		c.Message = "what it asked for before goes on running; if it never asked for anything else, nothing runs"
	case errors.Is(o.failed, errTaken):
		c.Reason, c.Message = reasonTaken, o.failed.Error()
	case errors.Is(o.failed, errNoImage):
		c.Reason, c.Message = string(gatewayv1.GatewayReasonNoResources), o.failed.Error()
	case o.failed != nil:
		c.Message = o.failed.Error()
	case len(o.addresses) == 0:
		c.Reason, c.Message = string(gatewayv1.GatewayReasonAddressNotAssigned), "its Service has no address yet"
	case o.ready > 0:
		c.Status, c.Reason = metav1.ConditionTrue, string(gatewayv1.GatewayReasonProgrammed)
	}
	return c
}

// errNoImage means that the controller was told of no image: an installation without waypoints.
var errNoImage = errors.New("the controller was started without --waypoint-image, so it runs no waypoints")

// supportedKinds are the routes that a waypoint can follow.
func supportedKinds() []gatewayv1.RouteGroupKind {
	group := gatewayv1.Group(gatewayv1.GroupName)
	out := make([]gatewayv1.RouteGroupKind, 0, 4)
	for _, kind := range []gatewayv1.Kind{"HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"} {
		out = append(out, gatewayv1.RouteGroupKind{Group: &group, Kind: kind})
	}
	return out
}

func (o *outcome) listener(l gatewayv1.Listener, s *gatewayv1.ListenerStatus, generation int64) {
	fault := listenerFault(l)
	kinds, unknown := routeKinds(l)
	s.SupportedKinds = kinds
	s.AttachedRoutes = 0 // routes name the Services whose requests they are for, not the waypoint
	set := func(kind gatewayv1.ListenerConditionType, ok bool, good, bad gatewayv1.ListenerConditionReason, text string) {
		c := metav1.Condition{Type: string(kind), Status: metav1.ConditionFalse, Reason: string(bad), Message: clipped(text),
			ObservedGeneration: generation}
		if ok {
			c.Status, c.Reason, c.Message = metav1.ConditionTrue, string(good), ""
		}
		meta.SetStatusCondition(&s.Conditions, c)
	}
	refusedAs := gatewayv1.ListenerReasonUnsupportedProtocol
	if l.Protocol == protocolHBONE {
		refusedAs = gatewayv1.ListenerReasonPortUnavailable
		if l.Port == PortHBONE {
			refusedAs = gatewayv1.ListenerReasonInvalid
		}
	}
	p := o.programmed()
	set(gatewayv1.ListenerConditionAccepted, fault == "", gatewayv1.ListenerReasonAccepted, refusedAs, fault)
	set(gatewayv1.ListenerConditionResolvedRefs, unknown == "", gatewayv1.ListenerReasonResolvedRefs,
		gatewayv1.ListenerReasonInvalidRouteKinds, "allowedRoutes.kinds: "+unknown)
	text, reason := p.Message, gatewayv1.ListenerReasonPending
	if fault != "" {
		text, reason = fault, gatewayv1.ListenerReasonInvalid
	}
	set(gatewayv1.ListenerConditionProgrammed, fault == "" && p.Status == metav1.ConditionTrue,
		gatewayv1.ListenerReasonProgrammed, reason, text)
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{
		Type: string(gatewayv1.ListenerConditionConflicted), Status: metav1.ConditionFalse,
		Reason: string(gatewayv1.ListenerReasonNoConflicts), ObservedGeneration: generation})
}

// routeKinds are those that a listener allows and a waypoint knows, and the others in words.
func routeKinds(l gatewayv1.Listener) (kinds []gatewayv1.RouteGroupKind, unknown string) {
	if listenerFault(l) != "" && l.Protocol != protocolHBONE {
		return []gatewayv1.RouteGroupKind{}, ""
	}
	all := supportedKinds()
	if l.AllowedRoutes == nil || len(l.AllowedRoutes.Kinds) == 0 {
		return all, ""
	}
	kinds = []gatewayv1.RouteGroupKind{}
	for _, k := range l.AllowedRoutes.Kinds {
		known := slices.ContainsFunc(all, func(a gatewayv1.RouteGroupKind) bool {
			return a.Kind == k.Kind && (k.Group == nil || *k.Group == *a.Group)
		})
		if known {
			group := gatewayv1.Group(gatewayv1.GroupName)
			kinds = append(kinds, gatewayv1.RouteGroupKind{Group: &group, Kind: k.Kind})
			continue
		}
		unknown = fmt.Sprintf("a waypoint knows no routes of kind %s", k.Kind)
	}
	return kinds, unknown
}

// writeStatus writes what has changed. A Gateway that has changed or gone meanwhile is looked at again anyway.
func (m *Manager) writeStatus(ctx context.Context, gw *gatewayv1.Gateway, status gatewayv1.GatewayStatus) error {
	if equality.Semantic.DeepEqual(gw.Status, status) {
		return nil
	}
	next := gw.DeepCopy()
	next.Status = status
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(next)
	if err != nil {
		return fmt.Errorf("write the status of Gateway %s/%s: %w", gw.Namespace, gw.Name, err)
	}
	u := &unstructured.Unstructured{Object: raw}
	u.SetGroupVersionKind(group().WithKind("Gateway"))
	api := m.cfg.Dynamic.Resource(gateways()).Namespace(gw.Namespace)
	_, err = api.UpdateStatus(ctx, u, metav1.UpdateOptions{FieldManager: manager})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of Gateway %s/%s: %w", gw.Namespace, gw.Name, err)
	}
	return nil
}

// clipped bounds a message, as the API does.
func clipped(s string) string {
	const limit = 1024
	if r := []rune(s); len(r) > limit {
		return string(r[:limit-1]) + "…"
	}
	return s
}
