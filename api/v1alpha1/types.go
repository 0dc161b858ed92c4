// Package v1alpha1 is the API that people write in manifests: AuthorizationPolicy and PeerAuthentication of the
// group warren.dev, with the field names of Istio's security.istio.io/v1 so that policies can be carried over.
//
// The types carry no behaviour: controller/manifest checks them, controller/compile gives them their meaning.
package v1alpha1

const (
	// Group is the API group of every kind in this package.
	Group = "warren.dev"
	// APIVersion is what a manifest's apiVersion says.
	APIVersion = Group + "/v1alpha1"

	// KindAuthorizationPolicy and the others are what a manifest's kind says.
	KindAuthorizationPolicy   = "AuthorizationPolicy"
	KindPeerAuthentication    = "PeerAuthentication"
	KindRequestAuthentication = "RequestAuthentication"
)

// Actions of an AuthorizationPolicy. The empty action means ALLOW.
const (
	ActionAllow  = "ALLOW"
	ActionDeny   = "DENY"
	ActionAudit  = "AUDIT"
	ActionCustom = "CUSTOM"
)

// Modes of a PeerAuthentication. UNSET inherits from the next wider scope.
const (
	ModeUnset      = "UNSET"
	ModePermissive = "PERMISSIVE"
	ModeStrict     = "STRICT"
)

// WorkloadSelector selects the pods that have every one of its labels.
type WorkloadSelector struct {
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
}

// AuthorizationPolicySpec says which connections and requests into the selected workloads, or to the targets, are
// allowed, denied, audited or put to an external authorizer. Without a selector and targets it selects every workload of
// its namespace, or of the mesh if it is in the root namespace.
type AuthorizationPolicySpec struct {
	Selector *WorkloadSelector `json:"selector,omitempty"`
	// TargetRefs are Services, or Gateways of waypoints, of the policy's namespace, whose waypoints then enforce it on
	// what goes through them. Not beside a selector.
	TargetRefs []PolicyTargetRef `json:"targetRefs,omitempty"`
	Action     string            `json:"action,omitempty"`
	// External is who decides, for CUSTOM only.
	External *External `json:"external,omitempty"`
	// Rules match if any of them matches. An ALLOW policy without rules allows nothing.
	Rules []Rule `json:"rules,omitempty"`
}

// PolicyTargetRef names a Service (of no group) or a Gateway (of gateway.networking.k8s.io).
type PolicyTargetRef struct {
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Name  string `json:"name,omitempty"`
}

// External is an authorizer that speaks envoy.service.auth.v3.Authorization over gRPC.
type External struct {
	Service *ServicePort `json:"service,omitempty"`
	// Timeout for one question, written as in the Gateway API (500ms, 2s); none: one second. No answer in time is a refusal.
	Timeout string `json:"timeout,omitempty"`
	// MaxBodyBytes of a request's body are sent along; none: nothing of it.
	MaxBodyBytes int32 `json:"maxBodyBytes,omitempty"`
}

// ServicePort is a port of a Service, of the policy's namespace if it names none.
type ServicePort struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Port      int32  `json:"port,omitempty"`
}

// Rule matches if any From matches (or there is none), any To matches (or there is none), and every When.
type Rule struct {
	From []RuleFrom  `json:"from,omitempty"`
	To   []RuleTo    `json:"to,omitempty"`
	When []Condition `json:"when,omitempty"`
}

// Condition matches if its key has one of Values, and none of NotValues.
type Condition struct {
	// Key is request.headers[<name>], request.auth.claims[<name>] (nested: [<name>][<name>]), request.auth.principal,
	// request.auth.audiences, request.auth.presenter, source.ip, source.namespace, source.principal or destination.port.
	Key       string   `json:"key,omitempty"`
	Values    []string `json:"values,omitempty"`
	NotValues []string `json:"notValues,omitempty"`
}

// RuleFrom wraps a Source, as Istio does.
type RuleFrom struct {
	Source *Source `json:"source,omitempty"`
}

// RuleTo wraps an Operation, as Istio does.
type RuleTo struct {
	Operation *Operation `json:"operation,omitempty"`
}

// Source matches if every field that is not empty matches.
type Source struct {
	// Principals are "<trust domain>/ns/<namespace>/sa/<service account>", exact, "prefix*", "*suffix" or "*".
	Principals    []string `json:"principals,omitempty"`
	NotPrincipals []string `json:"notPrincipals,omitempty"`
	Namespaces    []string `json:"namespaces,omitempty"`
	NotNamespaces []string `json:"notNamespaces,omitempty"`
	// ServiceAccounts are "<namespace>/<name>", or "<name>" in the policy's own namespace.
	ServiceAccounts    []string `json:"serviceAccounts,omitempty"`
	NotServiceAccounts []string `json:"notServiceAccounts,omitempty"`
	// IPBlocks are addresses or CIDRs of the peer's own address.
	IPBlocks    []string `json:"ipBlocks,omitempty"`
	NotIPBlocks []string `json:"notIpBlocks,omitempty"`
	// RequestPrincipals are "<issuer>/<subject>" of a JWT that a RequestAuthentication takes.
	RequestPrincipals    []string `json:"requestPrincipals,omitempty"`
	NotRequestPrincipals []string `json:"notRequestPrincipals,omitempty"`
}

// Operation matches if every field that is not empty matches.
type Operation struct {
	Ports    []Port `json:"ports,omitempty"`
	NotPorts []Port `json:"notPorts,omitempty"`
	// Hosts, without port, and Methods are exact, "prefix*", "*suffix" or "*", whatever their case.
	Hosts      []string `json:"hosts,omitempty"`
	NotHosts   []string `json:"notHosts,omitempty"`
	Methods    []string `json:"methods,omitempty"`
	NotMethods []string `json:"notMethods,omitempty"`
	// Paths, without query, may be templates as well: {*} is one element, {**} whatever is left.
	Paths    []string `json:"paths,omitempty"`
	NotPaths []string `json:"notPaths,omitempty"`
}

// PeerAuthenticationSpec says whether the selected workloads accept connections that carry no identity.
type PeerAuthenticationSpec struct {
	Selector *WorkloadSelector `json:"selector,omitempty"`
	MTLS     *MutualTLS        `json:"mtls,omitempty"`
	// PortLevelMTLS overrides MTLS for a port of the workload; it needs a selector.
	PortLevelMTLS map[string]MutualTLS `json:"portLevelMtls,omitempty"`
}

// MutualTLS is one mode. The empty mode means UNSET.
type MutualTLS struct {
	Mode string `json:"mode,omitempty"`
}
