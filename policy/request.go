package policy

import (
	"slices"
	"strings"
	"time"
)

// Request is what is known about a request when it is decided.
type Request struct {
	// Method is compared without regard to case, so that no backend that is as lenient is opened by "get".
	Method string
	// Host is what the request asks for, with or without a port.
	Host string
	// Path is as the backend will get it: without query, dot segments and empty elements, with nothing percent-encoded
	// that need not be.
	Path string
	// Header has canonical names, as net/http's has, and does not have Host.
	Header map[string][]string
	// Token is the zero Token if the request came without a valid one.
	Token Token
	// Passed are the authorizers that have said yes to this request.
	Passed []ExternalAuthorizer
}

// Token is what a JWT says whose issuer and signature were verified.
type Token struct {
	Issuer    string
	Subject   string
	Audiences []string
	// Presenter is its authorized party (azp).
	Presenter string
	// Claims are all of them, decoded from JSON; numbers may be json.Number.
	Claims map[string]any
}

// IsZero tells whether there is no token.
func (t *Token) IsZero() bool { return t.Issuer == "" && t.Subject == "" && t.Claims == nil }

// Principal is "<issuer>/<subject>", "" unless the token has both.
func (t *Token) Principal() string {
	if t.Issuer == "" || t.Subject == "" {
		return ""
	}
	return t.Issuer + "/" + t.Subject
}

// ExternalAuthorizer is asked about requests that a CUSTOM policy matches. It is comparable.
type ExternalAuthorizer struct {
	// Service is "<namespace>/<name>".
	Service string
	Port    uint16
	// Timeout is for one question. No answer is a refusal.
	Timeout time.Duration
	// MaxBodyBytes of a request's body are sent along, 0 for none.
	MaxBodyBytes uint32
	// Broken says why it cannot be asked, "" if it can. Requests are refused then.
	Broken string
}

// subject is a connection, and a request if one was read, in the form that is compared.
type subject struct {
	Conn
	request *Request // nil: nobody has read it
	method  string
	host    string
}

// newSubject is the one place where forms are looked at. netip's Contains is false for an address with a zone, so a
// zone would slip through a DENY block.
func newSubject(c Conn, r *Request) subject {
	c.SrcAddr = c.SrcAddr.Unmap().WithZone("")
	s := subject{Conn: c, request: r}
	if r != nil {
		s.method, s.host = strings.ToUpper(r.Method), bareHost(r.Host)
	}
	return s
}

// bareHost is a host without port, brackets and trailing dots, in lower case.
func bareHost(host string) string {
	if strings.HasPrefix(host, "[") {
		if end := strings.IndexByte(host, ']'); end > 0 {
			return strings.ToLower(host[1:end])
		}
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host, ':') == i {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimRight(host, "."))
}

// passed tells whether an authorizer has said yes.
func (s *subject) passed(x *ExternalAuthorizer) bool {
	return s.request != nil && x.Broken == "" && slices.Contains(s.request.Passed, *x)
}
