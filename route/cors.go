package route

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// IsPreflight tells whether a browser asks what it may send (Fetch standard, CORS-preflight request).
func IsPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" &&
		r.Header.Get("Access-Control-Request-Method") != ""
}

// Preflight writes the answer to a preflight request. To an origin that is not allowed it says nothing, and the browser
// then sends nothing.
func (c *CORS) Preflight(asked, answer http.Header) {
	if !c.Actual(asked, answer) {
		return
	}
	answer.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	c.list(answer, "Access-Control-Allow-Methods", c.AllowMethods, asked.Get("Access-Control-Request-Method"))
	c.list(answer, "Access-Control-Allow-Headers", c.AllowHeaders,
		strings.Join(asked.Values("Access-Control-Request-Headers"), ", "))
	if c.MaxAge > 0 {
		answer.Set("Access-Control-Max-Age", strconv.Itoa(int(c.MaxAge/time.Second)))
	}
}

// Actual writes what an answer says about other origins, in place of what the backend said. It tells whether the
// request's origin is allowed.
func (c *CORS) Actual(asked, answer http.Header) bool {
	for _, name := range [...]string{"Origin", "Credentials", "Methods", "Headers"} {
		answer.Del("Access-Control-Allow-" + name)
	}
	answer.Del("Access-Control-Expose-Headers")
	answer.Del("Access-Control-Max-Age")
	answer.Add("Vary", "Origin")
	origin := asked.Get("Origin")
	if !c.Allows(origin) {
		return false
	}
	answer.Set("Access-Control-Allow-Origin", origin)
	if c.AllowCredentials {
		answer.Set("Access-Control-Allow-Credentials", "true")
	}
	c.list(answer, "Access-Control-Expose-Headers", c.ExposeHeaders, "")
	return true
}

// list writes a list. "*" is taken literally by a browser that sends credentials, so that it gets what it asked for.
func (c *CORS) list(answer http.Header, name string, allowed []string, asked string) {
	value := strings.Join(allowed, ", ")
	if c.AllowCredentials && slices.Contains(allowed, "*") {
		value = asked
	}
	if value != "" {
		answer.Set(name, value)
	}
}

// Allows tells whether an origin is among those allowed.
func (c *CORS) Allows(origin string) bool {
	if origin == "" {
		return false
	}
	for _, allowed := range c.AllowOrigins {
		if allowed == "*" || allowed == origin || sameOrigin(allowed, origin) {
			return true
		}
	}
	return false
}

// sameOrigin compares scheme, host and port. The pattern's host may begin with a *, which stands for one or more labels.
func sameOrigin(pattern, origin string) bool {
	scheme, host, port, ok := splitOrigin(pattern)
	scheme2, host2, port2, ok2 := splitOrigin(origin)
	if !ok || !ok2 || scheme != scheme2 || port != port2 {
		return false
	}
	if suffix, wild := strings.CutPrefix(host, "*"); wild {
		return len(host2) > len(suffix) && strings.HasSuffix(host2, suffix) && !strings.HasPrefix(host2, ".")
	}
	return host == host2
}

// splitOrigin parses "<scheme>://<host>[:<port>]". A scheme's own port is as good as none.
func splitOrigin(origin string) (scheme, host, port string, ok bool) {
	scheme, rest, ok := strings.Cut(strings.ToLower(origin), "://")
	own := wellKnown(scheme)
	if !ok || own == 0 || strings.ContainsAny(rest, "/?#@ ") {
		return "", "", "", false
	}
	host, port = rest, strconv.Itoa(int(own))
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "]") {
		host, port = rest[:i], rest[i+1:]
	}
	return scheme, host, port, host != ""
}
