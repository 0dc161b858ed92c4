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

	// KindAuthorizationPolicy and KindPeerAuthentication are what a manifest's kind says.
	KindAuthorizationPolicy = "AuthorizationPolicy"
	KindPeerAuthentication  = "PeerAuthentication"
)

// Actions of an AuthorizationPolicy. The empty action means ALLOW.
const (
	ActionAllow = "ALLOW"
	ActionDeny  = "DENY"
	ActionAudit = "AUDIT"
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

// AuthorizationPolicySpec says which connections into the selected workloads are allowed, denied or audited.
// Without a selector it selects every workload of its namespace, or of the mesh if it is in the root namespace.
type AuthorizationPolicySpec struct {
	Selector *WorkloadSelector `json:"selector,omitempty"`
	Action   string            `json:"action,omitempty"`
	// Rules match if any of them matches. An ALLOW policy without rules allows nothing.
	Rules []Rule `json:"rules,omitempty"`
}

// Rule matches if any From matches (or there is none) and any To matches (or there is none).
type Rule struct {
	From []RuleFrom `json:"from,omitempty"`
	To   []RuleTo   `json:"to,omitempty"`
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
}

// Operation matches if every field that is not empty matches.
type Operation struct {
	Ports    []Port `json:"ports,omitempty"`
	NotPorts []Port `json:"notPorts,omitempty"`
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
