package v1alpha1

// RequestAuthenticationSpec says whose JWTs waypoints take before the selected workloads, or the targets. A request with
// a token that is not valid is refused; one without a token passes, and has no request principal.
type RequestAuthenticationSpec struct {
	Selector *WorkloadSelector `json:"selector,omitempty"`
	// TargetRefs are as AuthorizationPolicySpec's.
	TargetRefs []PolicyTargetRef `json:"targetRefs,omitempty"`
	JWTRules   []JWTRule         `json:"jwtRules,omitempty"`
}

// JWTRule is about the tokens of one issuer.
type JWTRule struct {
	Issuer string `json:"issuer,omitempty"`
	// Audiences: a token must be for one of them; none: it may be for anybody.
	Audiences []string `json:"audiences,omitempty"`
	// JWKS is a JWK set in JSON, JWKSURI where one is fetched. Exactly one of them is there.
	JWKS    string `json:"jwks,omitempty"`
	JWKSURI string `json:"jwksUri,omitempty"`
	// Where tokens are looked for; without any of the three: `Authorization: Bearer`.
	FromHeaders []JWTHeader `json:"fromHeaders,omitempty"`
	FromParams  []string    `json:"fromParams,omitempty"`
	FromCookies []string    `json:"fromCookies,omitempty"`
	// ForwardOriginalToken leaves the token in the request that the workload gets.
	ForwardOriginalToken bool `json:"forwardOriginalToken,omitempty"`
	// OutputPayloadToHeader is the header in which the workload gets the claims, base64url.
	OutputPayloadToHeader string          `json:"outputPayloadToHeader,omitempty"`
	OutputClaimToHeaders  []ClaimToHeader `json:"outputClaimToHeaders,omitempty"`
	// Timeout for fetching the set, written as in the Gateway API (500ms, 2s); none: five seconds.
	Timeout string `json:"timeout,omitempty"`
}

// JWTHeader is a header with a token behind a prefix.
type JWTHeader struct {
	Name   string `json:"name,omitempty"`
	Prefix string `json:"prefix,omitempty"`
}

// ClaimToHeader hands one claim on in a header. A nested claim's name has dots.
type ClaimToHeader struct {
	Header string `json:"header,omitempty"`
	Claim  string `json:"claim,omitempty"`
}
