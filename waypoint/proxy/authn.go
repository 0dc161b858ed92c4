package proxy

import (
	"errors"
	"net/http"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/authn"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/upstream"
)

// tokens is what RequestAuthentications have to do with a request.
type tokens struct {
	apply  []*policy.Authentication // for the service and the gateway
	result authn.Result
}

// authenticate verifies the request's tokens, if it has any and somebody asks for them.
func (x *passage) authenticate() *refusal {
	x.asked.targets = x.world.Targets(x.p.cfg.Gateway, x.conn)
	if x.p.cfg.Authn == nil {
		return nil
	}
	x.tokens.apply = x.world.Authentication.For(x.asked.targets, "")
	result, err := x.p.cfg.Authn.Authenticate(x.ctx, x.tokens.apply, x.in)
	if err != nil {
		return unauthenticated(err)
	}
	x.tokens.result, x.request.Token = result, result.Token
	return nil
}

// authenticateFor does it again for an endpoint whose workload has RequestAuthentications of its own, and takes away the
// tokens that are not to reach it. The request is the try's own.
func (x *passage) authenticateFor(e upstream.Endpoint, req *http.Request) *refusal {
	if x.p.cfg.Authn == nil {
		return nil
	}
	x.request.Token = x.tokens.result.Token
	if e.Workload != nil {
		apply := x.world.Authentication.For(x.asked.targets, string(e.Workload.UID))
		if len(apply) > len(x.tokens.apply) {
			result, err := x.p.cfg.Authn.Authenticate(x.ctx, apply, req)
			if err != nil {
				return unauthenticated(err)
			}
			x.request.Token = result.Token
			result.Strip(req)
		}
	}
	x.tokens.result.Strip(req)
	return nil
}

func unauthenticated(err error) *refusal {
	no := refusalOf(http.StatusUnauthorized, exchange.Refused, "the token is not valid").because(err)
	var why *authn.Error
	if !errors.As(err, &why) {
		return no
	}
	no.status = why.Status
	if why.Status != http.StatusUnauthorized {
		no.text = "the token cannot be verified now"
	}
	if why.Challenge != "" {
		no.header = http.Header{"Www-Authenticate": {why.Challenge}}
	}
	return no
}
