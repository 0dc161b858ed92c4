package waypoints

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// want is what a Gateway asks for.
type want struct {
	key types.NamespacedName
	uid types.UID
	// replicas is how many pods; max is not 0 if their number follows the load, from replicas up to max, at cpu percent.
	replicas, max, cpu int32
	// labels and annotations are those of spec.infrastructure, for every object.
	labels, annotations map[string]string
}

// refusal is why a Gateway cannot be had as it is written. What it said before goes on running.
type refusal struct {
	reason gatewayv1.GatewayConditionReason
	text   string
}

func (r *refusal) Error() string { return r.text }

// Limits of what a Gateway may ask for.
const (
	maxReplicas = 1000
	defaultCPU  = 80
)

// read says what a Gateway asks for, or returns a *refusal.
func read(gw *gatewayv1.Gateway, t Template) (want, *refusal) {
	w := want{key: types.NamespacedName{Namespace: gw.Namespace, Name: gw.Name}, uid: gw.UID}
	if bad := validation.IsDNS1035Label(gw.Name); len(bad) > 0 {
		return w, &refusal{gatewayv1.GatewayReasonInvalidParameters,
			fmt.Sprintf("its name %q cannot be a Service's: %s", gw.Name, bad[0])}
	}
	if len(gw.Spec.Addresses) > 0 {
		return w, &refusal{gatewayv1.GatewayReasonUnsupportedAddress,
			"spec.addresses: a waypoint's address is its Service's; leave this out"}
	}
	if f, set := gw.Labels[LabelFor]; set && !slices.Contains([]string{"all", "service", "workload"}, f) {
		return w, &refusal{gatewayv1.GatewayReasonInvalidParameters,
			fmt.Sprintf(`its label %s must be "all", "service" or "workload", not %q`, LabelFor, f)}
	}
	if !slices.ContainsFunc(gw.Spec.Listeners, func(l gatewayv1.Listener) bool { return listenerFault(l) == "" }) {
		return w, &refusal{gatewayv1.GatewayReasonListenersNotValid,
			fmt.Sprintf("a waypoint needs a listener of protocol HBONE on port %d; see status.listeners", PortHBONE)}
	}
	if i := gw.Spec.Infrastructure; i != nil {
		if i.ParametersRef != nil {
			return w, &refusal{gatewayv1.GatewayReasonInvalidParameters,
				"spec.infrastructure.parametersRef is not supported: use the annotation " + AnnotationReplicas}
		}
		w.labels, w.annotations = labels(i.Labels), annotations(i.Annotations)
	}
	return w, w.scale(gw.Annotations, t)
}

func labels(in map[gatewayv1.LabelKey]gatewayv1.LabelValue) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		if !reserved(string(k)) {
			out[string(k)] = string(v)
		}
	}
	return out
}

func annotations(in map[gatewayv1.AnnotationKey]gatewayv1.AnnotationValue) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		if !reserved(string(k)) {
			out[string(k)] = string(v)
		}
	}
	return out
}

// reserved keys say what an object is to the mesh and to Kubernetes: a Gateway's author does not decide that for its
// waypoint.
func reserved(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	return ok && (prefix == "warren.dev" || prefix == "gateway.networking.k8s.io" || key == managedBy || key == partOf)
}

// scale reads how many pods are wanted.
func (w *want) scale(annotations map[string]string, t Template) *refusal {
	w.replicas = t.Replicas
	if text, ok := annotations[AnnotationReplicas]; ok {
		least, most, ranged := strings.Cut(text, "-")
		n, bad := replicas(least)
		if ranged && !bad {
			w.max, bad = replicas(most)
		}
		if bad || ranged && w.max < n {
			return &refusal{gatewayv1.GatewayReasonInvalidParameters,
				fmt.Sprintf(`its annotation %s must be a number such as "3", or a range such as "2-10", up to %d; it is %q`,
					AnnotationReplicas, maxReplicas, text)}
		}
		w.replicas = n
	}
	w.cpu = defaultCPU
	if text, ok := annotations[AnnotationTargetCPU]; ok {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 || n > 1000 || w.max == 0 {
			return &refusal{gatewayv1.GatewayReasonInvalidParameters,
				fmt.Sprintf(`its annotation %s must be percent of the requested CPU, 1 to 1000, beside a range in %s; it is %q`,
					AnnotationTargetCPU, AnnotationReplicas, text)}
		}
		w.cpu = int32(n)
	}
	return nil
}

func replicas(text string) (n int32, bad bool) {
	i, err := strconv.ParseInt(text, 10, 32)
	return int32(i), err != nil || i < 1 || i > maxReplicas
}

// listenerFault says what is wrong with a listener, "" if nothing is.
func listenerFault(l gatewayv1.Listener) string {
	switch {
	case l.Protocol != protocolHBONE:
		return fmt.Sprintf("its protocol is %s: a waypoint speaks HBONE only", l.Protocol)
	case l.Port != PortHBONE:
		return fmt.Sprintf("its port is %d: HBONE is spoken on %d", l.Port, PortHBONE)
	case l.Hostname != nil && *l.Hostname != "":
		return "it has a hostname: routes say which hosts they are for"
	case l.TLS != nil:
		return "it has tls: a waypoint's certificate is its own identity"
	}
	return ""
}

const protocolHBONE gatewayv1.ProtocolType = "HBONE"
