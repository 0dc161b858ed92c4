package route

import (
	"net/http"
	"time"
)

// Traffic is what is done to requests beside routing. What is nil or empty is not done, or left to the waypoint.
type Traffic struct {
	Fault         *Fault
	RateLimits    []RateLimit
	Outlier       *Outlier
	Connections   *ConnectionLimits
	LoadBalancing *LoadBalancing
	RetryBudget   *RetryBudget
}

// TrafficPolicy attaches Traffic to services and routes. It must not change once a [TrafficSet] was made of it.
type TrafficPolicy struct {
	Namespace string
	Name      string
	Created   time.Time
	// Targets are "Service <namespace>/<name>", "HTTPRoute <namespace>/<name>" or "GRPCRoute <namespace>/<name>", the
	// latter two also with "/<rule>": the rule's name, or its number from 0 if it has none.
	Targets []string
	Traffic
}

// FullName is "<namespace>/<name>".
func (p *TrafficPolicy) FullName() string { return p.Namespace + "/" + p.Name }

// Fault is a disturbance that is made on purpose, in parts of 10,000 requests.
type Fault struct {
	DelayPerMyriad uint32
	Delay          time.Duration
	AbortPerMyriad uint32
	AbortStatus    int
	// Headers restrict it to requests with all of them.
	Headers []ValueMatch
	headers *values
}

// Applies tells whether the fault is for requests like r.
func (f *Fault) Applies(r *http.Request) bool { return applies(f.headers, f.Headers, r) }

// By is whose requests a rate limit counts together.
type By uint8

const (
	Everybody By = iota
	ByIdentity
	ByHeader
)

// RateLimit holds whoever is counted together to Requests a Period.
type RateLimit struct {
	// Key is what it counts under: the policy, the target and the limit. A limit of a policy with two targets counts for
	// each by itself. A [TrafficSet] fills it in.
	Key      string
	Name     string
	By       By
	Header   string // of ByHeader
	Requests uint32
	Period   time.Duration
	Burst    uint32 // how many may come at once; 0: Requests
	// Headers restrict it to requests with all of them.
	Headers []ValueMatch
	headers *values
}

// Applies tells whether the limit is for requests like r.
func (l *RateLimit) Applies(r *http.Request) bool { return applies(l.headers, l.Headers, r) }

func applies(compiled *values, wanted []ValueMatch, r *http.Request) bool {
	if len(wanted) == 0 {
		return true
	}
	if compiled == nil { // not from a set
		var err error
		if compiled, err = newValues(wanted, http.CanonicalHeaderKey); err != nil {
			return false
		}
	}
	return compiled.matchHeaders(&Request{Host: HostOf(r.Host), Header: r.Header})
}

// Outlier leaves endpoints out that fail.
type Outlier struct {
	// ConsecutiveErrors is after how many failures (5xx, or no answer) in a row.
	ConsecutiveErrors         int
	BaseEjection, MaxEjection time.Duration
	// MaxEjectedPercent is how much of the endpoints may be left out at once.
	MaxEjectedPercent int
}

// ConnectionLimits bound what goes to a service at once. 0 is no limit.
type ConnectionLimits struct {
	MaxRequests               int
	MaxConnectionsPerEndpoint int
	MaxPending                int
}

// Balance is how an endpoint is chosen.
type Balance uint8

const (
	PeakEWMA Balance = iota
	RoundRobin
	LeastRequests
	Random
	ConsistentHash
)

// LoadBalancing is how requests are spread over endpoints.
type LoadBalancing struct {
	Kind Balance
	// What ConsistentHash hashes: one of them.
	HashHeader, HashCookie, HashQuery string
	HashSource                        bool
	// LocalityFailover takes endpoints of other zones only as far as those of the own do not suffice.
	LocalityFailover bool
}

// RetryBudget bounds retries.
type RetryBudget struct {
	// Percent of the requests at once that may be retries.
	Percent             int
	MinRetriesPerSecond int
}
