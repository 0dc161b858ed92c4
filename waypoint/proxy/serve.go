package proxy

import (
	"context"
	"io"
	"net/http"
	"net/netip"

	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// passage is one request on its way through, with what each phase found out for the next.
type passage struct {
	p     *Proxy
	w     http.ResponseWriter
	in    *http.Request
	conn  *exchange.Conn
	world *exchange.World
	trace Trace
	rec   *exchange.Record

	asked   asked // read
	tokens  tokens
	request policy.Request // what policy looks at
	hit     route.Hit      // Rule is nil if no route is attached
	traffic route.Traffic
	to      backend
	body    *body          // nil if there is none
	uplink  *io.PipeWriter // to the backend of an HTTP/1 client's CONNECT
	send    *http.Request  // as it will be sent, by each try
	sending *http.Request  // by the present one
	shared  bool           // send has in's header
	extra   []route.Header // what an authorizer adds to the answer
	tried   []netip.AddrPort
	free    int // tries that were not the route's, because nothing had been sent

	ctx    context.Context // ends with the client's patience, or the route's
	limits *timeLimit      // the request's, nil if there is none
	wrote  bool            // the answer's header
	over   refusal         // see finished
}

// backend is what a request is forwarded to: a service, or the workload that was dialled.
type backend struct {
	service *mesh.Service
	port    mesh.Port
	filters *route.Filters // its own, nil if there are none
}

// ServeHTTP takes a request to its end. The client's connection is the context's [exchange.Conn].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := p.begin(w, r)
	defer x.end()
	if no := x.pass(); no != nil {
		x.refuse(no)
	}
}

// pass is the way, phase by phase. Each either lets the request go on or says how it ends.
func (x *passage) pass() *refusal {
	for _, phase := range [...]func(*passage) *refusal{
		(*passage).read,
		(*passage).authenticate,
		(*passage).route,
		(*passage).preflight,
		(*passage).authorize,
		(*passage).limit,
		(*passage).disturb,
		(*passage).redirect,
		(*passage).choose,
		(*passage).forward,
	} {
		if no := phase(x); no != nil {
			if no.done {
				return nil
			}
			return no
		}
	}
	return nil
}
