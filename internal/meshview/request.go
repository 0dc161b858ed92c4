package meshview

import (
	"fmt"
	"net/textproto"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/policy"
)

const (
	// maxAsked bounds what one question says of a request.
	maxAsked = 256
	// maxAuthorizers is how many authorizers a waypoint asks about one request.
	maxAuthorizers = 8
)

// Request returns the request that q asks about, nil if it asks about a connection only. Its errors are gRPC statuses:
// InvalidArgument, naming the field.
func Request(q *adminv1.AuthzRequest) (*policy.Request, error) {
	if q.GetMethod() == "" && q.GetPath() == "" && q.GetHost() == "" && len(q.GetHeaders())+len(q.GetClaims()) == 0 {
		return nil, nil
	}
	if len(q.GetHeaders())+len(q.GetClaims()) > maxAsked {
		return nil, status.Errorf(codes.InvalidArgument, "headers and claims: more than %d", maxAsked)
	}
	r := &policy.Request{Method: q.GetMethod(), Host: q.GetHost(), Path: q.GetPath(), Header: make(map[string][]string)}
	if r.Method == "" {
		r.Method = "GET"
	}
	if r.Path == "" {
		r.Path = "/"
	}
	if r.Path, _, _ = strings.Cut(r.Path, "?"); r.Path[0] != '/' {
		return nil, status.Errorf(codes.InvalidArgument, "path: %q does not begin with a slash", q.GetPath())
	}
	for _, line := range q.GetHeaders() {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" {
			return nil, status.Errorf(codes.InvalidArgument, "headers: %q is not name: value", line)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		r.Header[name] = append(r.Header[name], strings.TrimSpace(value))
	}
	return r, addClaims(&r.Token, q.GetClaims())
}

// addClaims makes a token of "name=value" pairs.
func addClaims(t *policy.Token, claims []string) error {
	for _, c := range claims {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" {
			return status.Errorf(codes.InvalidArgument, "claims: %q is not name=value", c)
		}
		if t.Claims == nil {
			t.Claims = make(map[string]any)
		}
		if err := addClaim(t.Claims, name, value); err != nil {
			return status.Errorf(codes.InvalidArgument, "claims: %v", err)
		}
		switch name {
		case "iss":
			t.Issuer = value
		case "sub":
			t.Subject = value
		case "azp":
			t.Presenter = value
		case "aud":
			t.Audiences = append(t.Audiences, value)
		}
	}
	return nil
}

// addClaim adds a value under a name, whose dots lead into objects. A second one makes a list.
func addClaim(all map[string]any, name, value string) error {
	for {
		outer, inner, nested := strings.Cut(name, ".")
		if !nested {
			break
		}
		next, ok := all[outer].(map[string]any)
		if !ok && all[outer] != nil {
			return fmt.Errorf("%s is a value and has values at once", outer)
		}
		if !ok {
			next = make(map[string]any)
			all[outer] = next
		}
		all, name = next, inner
	}
	switch old := all[name].(type) {
	case nil:
		all[name] = value
	case []any:
		all[name] = append(old, value)
	case map[string]any:
		return fmt.Errorf("%s is a value and has values at once", name)
	default:
		all[name] = []any{old, value}
	}
	return nil
}

// Decide holds a request, nil if nobody reads it, against one target after the other, as a waypoint does: each must
// allow it. It takes authorizers to say yes, and returns which would be asked.
func Decide(set *policy.Set, targets []policy.Target, c policy.Conn, r *policy.Request) (d policy.Decision, asks []string) {
	var audits []string
	for _, t := range targets {
		for range maxAuthorizers {
			if d = set.DecideRequest(t, c, r); d.Ask == nil {
				break
			}
			asks = append(asks, fmt.Sprintf("%s:%d", d.Ask.Service, d.Ask.Port))
			r.Passed = append(r.Passed, *d.Ask)
		}
		if d.Audit != "" {
			audits = append(audits, d.Audit)
		}
		if !d.Allowed {
			break
		}
	}
	d.Audit = strings.Join(audits, ", ")
	return d, asks
}
