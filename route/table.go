package route

import "net/http"

// Table finds the rule for a request. It is immutable.
type Table struct{}

// NewTable indexes routes.
func NewTable([]*Route) (*Table, error) { return &Table{}, nil }

// Request is what a route looks at.
type Request struct {
	Method   string
	Host     string // without port, lower case
	Path     string // as normalised by whoever read the request, still escaped
	RawQuery string
	Header   http.Header
}

// Hit is the rule that a request falls to.
type Hit struct {
	Route *Route
	Rule  *Rule
	Index int    // the rule's, in its route
	Match *Match // nil if the rule has none
}

// Find returns the rule for a request of a client to a service's port. attached tells whether any route is attached
// there for clients of that namespace: without one, requests go to the service itself; with one, a request that no rule
// matches is answered 404.
func (t *Table) Find(service string, port uint16, clientNamespace string, r *Request) (hit Hit, attached, found bool) {
	return Hit{}, false, false
}
