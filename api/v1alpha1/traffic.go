package v1alpha1

// KindTrafficPolicy is what a manifest's kind says.
const KindTrafficPolicy = "TrafficPolicy"

// Words that a TrafficPolicy uses.
const (
	LimitEverybody  = "Everybody"
	LimitByIdentity = "Identity"
	LimitByHeader   = "Header"

	BalancePeakEWMA       = "PeakEWMA"
	BalanceRoundRobin     = "RoundRobin"
	BalanceLeastRequests  = "LeastRequests"
	BalanceRandom         = "Random"
	BalanceConsistentHash = "ConsistentHash"

	MatchExact             = "Exact"
	MatchRegularExpression = "RegularExpression"
)

// TrafficPolicySpec says what a waypoint does to requests beside routing them: those to a Service, or those that a route,
// or one rule of it, matches. Of several policies about one target the oldest counts, field by field, and what is said of
// a route goes before what is said of the Service.
type TrafficPolicySpec struct {
	// TargetRefs are Services, HTTPRoutes and GRPCRoutes of the policy's own namespace; there must be one.
	TargetRefs []TrafficTarget `json:"targetRefs,omitempty"`
	// Fault delays and fails requests on purpose, to see how clients take it.
	Fault *Fault `json:"fault,omitempty"`
	// RateLimits are all applied: a request that is above one is answered 429. Each replica of a waypoint counts by itself.
	RateLimits []RateLimit `json:"rateLimits,omitempty"`
	// OutlierDetection leaves endpoints out for a while that answer with errors.
	OutlierDetection *OutlierDetection `json:"outlierDetection,omitempty"`
	// ConnectionLimits bound what is under way to a Service at once, for each replica of a waypoint.
	ConnectionLimits *ConnectionLimits `json:"connectionLimits,omitempty"`
	// LoadBalancing says how an endpoint is chosen.
	LoadBalancing *LoadBalancing `json:"loadBalancing,omitempty"`
	// RetryBudget bounds retries, so that they do not finish off a service that is in trouble.
	RetryBudget *RetryBudget `json:"retryBudget,omitempty"`
}

// TrafficTarget names one object of the policy's own namespace.
type TrafficTarget struct {
	// Group is empty for a Service, and gateway.networking.k8s.io for routes.
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Name  string `json:"name,omitempty"`
	// SectionName is the name of a route's rule.
	SectionName string `json:"sectionName,omitempty"`
}

// HeaderMatch matches a request by a header's value: as it is, or by a regular expression (RE2) of all of it.
type HeaderMatch struct {
	// Type is Exact, the default, or RegularExpression.
	Type  string `json:"type,omitempty"`
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
}

// Fault is what goes wrong on purpose. A request may be delayed and then failed.
type Fault struct {
	Delay *FaultDelay `json:"delay,omitempty"`
	Abort *FaultAbort `json:"abort,omitempty"`
	// Headers must all match for a request to be considered; none: every request is.
	Headers []HeaderMatch `json:"headers,omitempty"`
}

// FaultDelay holds requests up.
type FaultDelay struct {
	// Percent of requests: a whole number, or a string such as "0.5" with at most two digits behind the point.
	Percent Percent `json:"percent,omitempty"`
	// Duration is written as in the Gateway API: 500ms, 1m30s. At most an hour.
	Duration string `json:"duration,omitempty"`
}

// FaultAbort answers requests instead of sending them on.
type FaultAbort struct {
	Percent Percent `json:"percent,omitempty"`
	// Status is 400 to 599.
	Status int32 `json:"status,omitempty"`
}

// RateLimit lets so many requests through in a period, as a bucket of Burst tokens that fills up evenly.
type RateLimit struct {
	// Name is told to who was limited, and shown in flows. Limits of one policy have different ones.
	Name string `json:"name,omitempty"`
	// By is whose requests are counted together: Everybody, the default; Identity: each client's, by its certificate; or
	// Header: those with the same value of Header, of which those without it are one.
	By     string `json:"by,omitempty"`
	Header string `json:"header,omitempty"`
	// Requests in Period; a period is a second unless it says.
	Requests int32  `json:"requests,omitempty"`
	Period   string `json:"period,omitempty"`
	// Burst is how many may come at once; unless it says, Requests.
	Burst *int32 `json:"burst,omitempty"`
	// Headers must all match for a request to be counted; none: every request is.
	Headers []HeaderMatch `json:"headers,omitempty"`
}

// OutlierDetection leaves an endpoint out after so many answers of 500 and above, or none, in a row.
type OutlierDetection struct {
	// ConsecutiveErrors is 5 unless it says.
	ConsecutiveErrors *int32 `json:"consecutiveErrors,omitempty"`
	// BaseEjection is how long the first time, 30s unless it says; it doubles with each further time, up to MaxEjection,
	// 5m unless it says.
	BaseEjection string `json:"baseEjection,omitempty"`
	MaxEjection  string `json:"maxEjection,omitempty"`
	// MaxEjectedPercent is how many of a Service's endpoints may be left out at once, 50 unless it says.
	MaxEjectedPercent *int32 `json:"maxEjectedPercent,omitempty"`
}

// ConnectionLimits bound what is under way at once. What it does not say is not bounded.
type ConnectionLimits struct {
	// MaxRequests to the Service; those above are answered 503.
	MaxRequests *int32 `json:"maxRequests,omitempty"`
	// MaxConnectionsPerEndpoint: requests above wait for one, MaxPending of them at most.
	MaxConnectionsPerEndpoint *int32 `json:"maxConnectionsPerEndpoint,omitempty"`
	MaxPending                *int32 `json:"maxPending,omitempty"`
}

// LoadBalancing says how an endpoint is chosen.
type LoadBalancing struct {
	// Type is PeakEWMA, the default: the less loaded of two, by how long answers took; RoundRobin, LeastRequests, Random,
	// or ConsistentHash.
	Type string `json:"type,omitempty"`
	// Hash is what ConsistentHash goes by.
	Hash *HashOf `json:"hash,omitempty"`
	// LocalityFailover prefers endpoints of the client's zone, and takes others as far as those do not suffice.
	LocalityFailover bool `json:"localityFailover,omitempty"`
}

// HashOf is one thing of a request.
type HashOf struct {
	Header string `json:"header,omitempty"`
	Cookie string `json:"cookie,omitempty"`
	Query  string `json:"query,omitempty"`
	// Source is the client's address.
	Source bool `json:"source,omitempty"`
}

// RetryBudget allows so many retries at once.
type RetryBudget struct {
	// Percent of the requests under way, 20 unless it says.
	Percent *int32 `json:"percent,omitempty"`
	// MinRetriesPerSecond are allowed however few requests there are, 10 unless it says.
	MinRetriesPerSecond *int32 `json:"minRetriesPerSecond,omitempty"`
}
