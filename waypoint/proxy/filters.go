package proxy

import (
	"net/http"
	"net/url"

	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// preflight answers a browser's question about another origin in the backend's place. It comes before policy: such a
// question carries no credentials, and the answer says nothing but what the route does.
func (x *passage) preflight() *refusal {
	if x.hit.Rule == nil || x.hit.Rule.Filters.CORS == nil || !route.IsPreflight(x.in) {
		return nil
	}
	x.rec.Outcome = exchange.Preflight
	h := x.w.Header()
	x.hit.Rule.Filters.CORS.Preflight(x.in.Header, h)
	x.hit.Rule.Filters.Response.Apply(h)
	h.Set("Content-Length", "0")
	x.closeUnlessSwitched(h)
	x.writeHeader(http.StatusOK)
	return x.finished()
}

// redirect answers with another place, if the route says so.
func (x *passage) redirect() *refusal {
	rule := x.hit.Rule
	switch {
	case rule == nil:
		return nil
	case rule.Broken != "":
		return broken(rule.Broken)
	case rule.Filters.Redirect == nil:
		return nil
	}
	to := rule.Filters.Redirect
	no := refusalOf(to.Status, exchange.Redirected, "")
	if no.status == 0 {
		no.status = http.StatusFound
	}
	no.header = http.Header{"Location": {to.Location(route.Asked{
		Scheme: "http", Host: x.asked.host, Port: x.conn.Port.Number, Path: x.asked.path, RawQuery: x.asked.query,
	}, x.hit.Match)}}
	return no
}

func broken(why string) *refusal {
	no := refusalOf(http.StatusInternalServerError, exchange.Broken, "the route refers to a backend that cannot be used")
	no.detail = why
	return no
}

// rewrite changes what the backend is asked for. A backend's own filters come after its rule's.
func (x *passage) rewrite(out *http.Request) error {
	path := x.asked.path
	for _, f := range x.filters() {
		if f.Rewrite == nil {
			continue
		}
		path = f.Rewrite.Path.Apply(path, x.hit.Match)
		if f.Rewrite.Hostname != "" {
			out.Host = f.Rewrite.Hostname
		}
	}
	for _, f := range x.filters() {
		f.Request.ApplyRequest(out)
	}
	if path == x.asked.path {
		return nil
	}
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return err
	}
	out.URL.Path, out.URL.RawPath = decoded, path
	return nil
}

// filters are the rule's and then the backend's.
func (x *passage) filters() []*route.Filters {
	var list [2]*route.Filters
	n := 0
	if x.hit.Rule != nil {
		list[n] = &x.hit.Rule.Filters
		n++
	}
	if x.to.filters != nil {
		list[n] = x.to.filters
		n++
	}
	return list[:n]
}

// modifyAnswer changes an answer's header as the filters say.
func (x *passage) modifyAnswer(h http.Header) {
	for _, f := range x.filters() {
		f.Response.Apply(h)
	}
	if x.hit.Rule != nil && x.hit.Rule.Filters.CORS != nil && x.in.Header["Origin"] != nil {
		x.hit.Rule.Filters.CORS.Actual(x.in.Header, h)
	}
}
