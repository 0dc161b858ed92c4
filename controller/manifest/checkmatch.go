package manifest

import (
	"fmt"
	"strings"

	"github.com/warren-mesh/warren/route"
)

func (c *routeChecker) matches(path string, m *RouteMatch) error {
	http := c.kind == KindHTTPRoute
	if !http && (m.Path != nil || m.QueryParams != nil || m.Method.HTTP != "") {
		return c.at(path, "a %s matches a method's service and name, and headers", c.kind)
	}
	if http && m.Method.GRPC != nil {
		return c.at(path+".method", "want a method such as GET: services and methods are a GRPCRoute's")
	}
	if m.Method.HTTP != "" && !isMethod(m.Method.HTTP) {
		return c.at(path+".method", "want one of GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH, got %q", m.Method.HTTP)
	}
	if err := c.grpcMethod(path+".method", m.Method.GRPC); err != nil {
		return err
	}
	if m.Path != nil {
		if err := c.path(path+".path", m.Path); err != nil {
			return err
		}
	}
	if err := c.values(path+".headers", m.Headers); err != nil {
		return err
	}
	return c.values(path+".queryParams", m.QueryParams)
}

func isMethod(s string) bool {
	switch s {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return true
	}
	return false
}

func (c *routeChecker) grpcMethod(path string, m *GRPCMethod) error {
	switch {
	case m == nil:
		return nil
	case m.Service == "" && m.Method == "":
		return c.at(path, "want a service, a method or both")
	case len(m.Service) > maxRoutePath || len(m.Method) > maxRoutePath:
		return c.at(path, "more than %d characters", maxRoutePath)
	}
	switch m.Type {
	case "", MatchExact:
		if strings.Contains(m.Service+m.Method, "/") {
			return c.at(path, "a service and a method are named without slashes")
		}
		return nil
	case MatchRegex:
		if err := c.pattern(path+".service", m.Service); err != nil {
			return err
		}
		return c.pattern(path+".method", m.Method)
	}
	return c.at(path+".type", "want Exact or RegularExpression, got %q", m.Type)
}

func (c *routeChecker) path(path string, m *ValueMatch) error {
	switch m.Type {
	case MatchRegex:
		if len(m.Value) > maxRoutePath {
			return c.at(path+".value", "more than %d characters", maxRoutePath)
		}
		return c.pattern(path+".value", m.Value)
	case "", MatchPrefix, MatchExact:
		return c.plainPath(path+".value", m.Value)
	}
	return c.at(path+".type", "want Exact, PathPrefix or RegularExpression, got %q", m.Type)
}

// plainPath checks a path that requests' are compared with, which are normalised before: one with what that takes out
// would match nothing. Empty is every path.
func (c *routeChecker) plainPath(path, value string) error {
	if value == "" {
		return nil
	}
	if !strings.HasPrefix(value, "/") || len(value) > maxRoutePath {
		return c.at(path, "want a path that begins with / and has at most %d characters, got %q", maxRoutePath, value)
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F", "#", "?", "\\"} {
		if strings.Contains(value, bad) {
			return c.at(path, "may not contain %q", bad)
		}
	}
	if strings.HasSuffix(value, "/..") || strings.HasSuffix(value, "/.") {
		return c.at(path, "may not end in /. or /..")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return c.at(path, "want printable ASCII: write other characters as %%XX")
	}
	return nil
}

func (c *routeChecker) values(path string, all []ValueMatch) error {
	if len(all) > maxRouteList {
		return c.at(path, "more than %d", maxRouteList)
	}
	for i, v := range all {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !isToken(v.Name) {
			return c.at(at+".name", "want a name of at most %d letters, digits and marks, got %q", maxNameLength, v.Name)
		}
		if v.Value == "" || len(v.Value) > maxMatchValue {
			return c.at(at+".value", "want 1 to %d characters", maxMatchValue)
		}
		switch v.Type {
		case "", MatchExact:
		case MatchRegex:
			if err := c.pattern(at+".value", v.Value); err != nil {
				return err
			}
		default:
			return c.at(at+".type", "want Exact or RegularExpression, got %q", v.Type)
		}
	}
	return nil
}

// pattern checks a regular expression.
func (c *routeChecker) pattern(path, pattern string) error {
	cost, err := route.PatternCost(pattern)
	if err != nil {
		return c.at(path, "%v", err)
	}
	if c.regex += cost; c.regex > maxRegexCost {
		return c.at(path, "the route's regular expressions are too complex: more than %d instructions together", maxRegexCost)
	}
	return nil
}
