// Package route decides where a request goes: HTTPRoutes and GRPCRoutes of the Gateway API (v1, GAMMA: their parents are
// services) as a pure function of an immutable [Table] and a [Request]. It does no I/O, keeps no state, reads no clock and
// draws no lots, so that any number of goroutines may ask at once.
//
// A route's references were resolved by whoever made it: a service that may not be reached, or is not there, is a
// Broken backend, to which requests fall and get 500.
package route

import "time"

// Kind tells the two kinds of routes apart.
type Kind uint8

const (
	HTTP Kind = iota + 1
	GRPC
)

// String returns the kind's name in the Gateway API.
func (k Kind) String() string {
	if k == GRPC {
		return "GRPCRoute"
	}
	return "HTTPRoute"
}

// Route is one route. It must not change once a [Table] was made of it.
type Route struct {
	Kind      Kind
	Namespace string
	Name      string
	Created   time.Time
	Parents   []Parent
	Hostnames []string
	Rules     []Rule
}

// FullName is "<namespace>/<name>".
func (r *Route) FullName() string { return r.Namespace + "/" + r.Name }

// Parent is one service that a route is attached to.
type Parent struct {
	Service string // "<namespace>/<name>"
	Port    uint16 // 0: every port
	// Consumer is the only namespace whose clients the route is for, empty for those of all.
	Consumer string
}

// Rule is what is done with requests that match.
type Rule struct {
	Name     string
	Matches  []Match // any of them; none matches everything
	Filters  Filters
	Backends []Backend
	// Timeout bounds the whole request, BackendTimeout one try; 0 is none.
	Timeout, BackendTimeout time.Duration
	Retry                   *Retry
	Session                 *Session
	// Broken is why requests that match are answered 500.
	Broken string
}

// PathKind is how a path is compared.
type PathKind uint8

const (
	Prefix PathKind = iota // of whole elements: /a matches /a and /a/b, not /ab
	Exact
	Regex // RE2, anchored at both ends
)

// Match matches if everything that it names does.
type Match struct {
	Path     string // empty: every path
	PathKind PathKind
	Method   string
	Headers  []ValueMatch
	Query    []ValueMatch
	// Of a GRPCRoute; either may be empty.
	GRPCService, GRPCMethod string
	GRPCRegex               bool
}

// ValueMatch compares one header's or query parameter's value, as a whole.
type ValueMatch struct {
	Name, Value string
	Regex       bool
}

// Filters are what changes a request or its answer.
type Filters struct {
	Request, Response HeaderModifier
	Redirect          *Redirect
	Rewrite           *Rewrite
	Mirrors           []Mirror
	CORS              *CORS
}

// HeaderModifier changes headers: what is set replaces, what is added goes beside, and then some are removed.
type HeaderModifier struct {
	Set, Add []Header
	Remove   []string
}

// Header is one header's line.
type Header struct{ Name, Value string }

// PathChangeKind says what of a path is replaced.
type PathChangeKind uint8

const (
	Keep PathChangeKind = iota
	ReplaceFull
	ReplacePrefix // the prefix that matched
)

// PathChange is how a path changes.
type PathChange struct {
	Kind  PathChangeKind
	Value string
}

// Redirect answers a request with another place. Empty fields stay as the request has them.
type Redirect struct {
	Scheme, Hostname string
	Path             PathChange
	Port             uint16
	Status           int
}

// Rewrite changes what a backend is asked for.
type Rewrite struct {
	Hostname string
	Path     PathChange
}

// Mirror sends a copy of Numerator in Denominator requests to a service, whose answer nobody gets.
type Mirror struct {
	Service                string
	Port                   uint16
	Numerator, Denominator uint32
	Broken                 string
}

// CORS answers browsers' questions about other origins (Fetch standard, section 3.2).
type CORS struct {
	AllowOrigins               []string // exact, "*", or "https://*.example.com"
	AllowCredentials           bool
	AllowMethods, AllowHeaders []string
	ExposeHeaders              []string
	MaxAge                     time.Duration
}

// Backend is one service that requests go to, by weight.
type Backend struct {
	Service string // "<namespace>/<name>"
	Port    uint16
	Weight  uint32
	Filters Filters
	// Broken is why requests that fall to it are answered 500.
	Broken string
}

// Retry says which answers are not good enough.
type Retry struct {
	Codes    []int
	Attempts int // after the first
	Backoff  time.Duration
}

// Session keeps a client's requests at one endpoint.
type Session struct {
	Name      string
	Cookie    bool // else a header
	Absolute  time.Duration
	Idle      time.Duration
	Permanent bool // the cookie outlives the browser's session
}
