package manifest

import (
	"fmt"
	"net/http"
	"strings"
)

// filters checks a rule's filters, or a backend's.
func (c *routeChecker) filters(path string, filters []RouteFilter, r *RouteRule) error {
	seen := make(map[string]bool)
	for i := range filters {
		f := &filters[i]
		at := fmt.Sprintf("%s.filters[%d]", path, i)
		if err := c.filterShape(at, f); err != nil {
			return err
		}
		if seen[f.Type] && f.Type != FilterMirror && f.Type != FilterExtensionRef {
			return c.at(at+".type", "%s occurs twice", f.Type)
		}
		seen[f.Type] = true
		if err := c.filter(at, f, r); err != nil {
			return err
		}
	}
	if seen[FilterRedirect] && seen[FilterRewrite] {
		return c.at(path+".filters", "a request is redirected or rewritten, not both")
	}
	return nil
}

// filterShape checks that a filter has the one field that its type is about.
func (c *routeChecker) filterShape(path string, f *RouteFilter) error {
	fields := []struct {
		kind, name string
		there      bool
	}{
		{FilterRequestHeaders, "requestHeaderModifier", f.RequestHeaderModifier != nil},
		{FilterResponseHeaders, "responseHeaderModifier", f.ResponseHeaderModifier != nil},
		{FilterMirror, "requestMirror", f.RequestMirror != nil}, {FilterRedirect, "requestRedirect", f.RequestRedirect != nil},
		{FilterRewrite, "urlRewrite", f.URLRewrite != nil}, {FilterCORS, "cors", f.CORS != nil},
		{FilterExternalAuth, "externalAuth", f.ExternalAuth != nil}, {FilterExtensionRef, "extensionRef", f.ExtensionRef != nil},
	}
	for _, field := range fields {
		switch {
		case field.kind == f.Type && !field.there:
			return c.at(path+"."+field.name, "is missing: type %s needs it", f.Type)
		case field.kind != f.Type && field.there:
			return c.at(path+"."+field.name, "is not for type %q", f.Type)
		case field.kind == f.Type && c.kind == KindGRPCRoute && !grpcFilter(f.Type):
			return c.at(path+".type", "a GRPCRoute has no filter %s", f.Type)
		}
	}
	if f.Type == "" {
		return c.at(path+".type", "is missing")
	}
	return nil // a type that nobody knows yet is refused where it would have been applied
}

func grpcFilter(kind string) bool {
	return kind == FilterRequestHeaders || kind == FilterResponseHeaders || kind == FilterMirror || kind == FilterExtensionRef
}

func (c *routeChecker) filter(path string, f *RouteFilter, r *RouteRule) error {
	switch f.Type {
	case FilterRequestHeaders:
		return c.modifier(path+".requestHeaderModifier", f.RequestHeaderModifier)
	case FilterResponseHeaders:
		return c.modifier(path+".responseHeaderModifier", f.ResponseHeaderModifier)
	case FilterMirror:
		return c.mirror(path+".requestMirror", f.RequestMirror)
	case FilterRedirect:
		if len(r.BackendRefs) > 0 {
			return c.at(path, "a rule that redirects has no backendRefs")
		}
		return c.redirect(path+".requestRedirect", f.RequestRedirect, r)
	case FilterRewrite:
		if h := f.URLRewrite.Hostname; h != "" && !isHostname(h) {
			return c.at(path+".urlRewrite.hostname", "want a host's name, got %q", h)
		}
		return c.pathModifier(path+".urlRewrite.path", f.URLRewrite.Path, r)
	case FilterCORS:
		return c.cors(path+".cors", f.CORS)
	}
	return nil
}

func (c *routeChecker) modifier(path string, m *HeaderModifier) error {
	named := make(map[string]string)
	name := func(at, name string) error {
		if !isToken(name) {
			return c.at(at, "want a header's name, got %q", name)
		}
		if isFraming(name) {
			return c.at(at, "%s says how a message is framed, and cannot be changed", name)
		}
		if before := named[strings.ToLower(name)]; before != "" {
			return c.at(at, "%s is changed by %s already", name, before)
		}
		named[strings.ToLower(name)] = at
		return nil
	}
	for _, list := range []struct {
		name    string
		headers []HeaderValue
	}{{"set", m.Set}, {"add", m.Add}} {
		if len(list.headers) > maxRouteList {
			return c.at(path+"."+list.name, "more than %d", maxRouteList)
		}
		for i, h := range list.headers {
			at := fmt.Sprintf("%s.%s[%d]", path, list.name, i)
			if err := name(at+".name", h.Name); err != nil {
				return err
			}
			if !isFieldValue(h.Value) || h.Value == "" {
				return c.at(at+".value", "want 1 to %d characters, none of them a control character, no space at either end", maxMatchValue)
			}
		}
	}
	if len(m.Remove) > maxRouteList {
		return c.at(path+".remove", "more than %d", maxRouteList)
	}
	for i, h := range m.Remove {
		if err := name(fmt.Sprintf("%s.remove[%d]", path, i), h); err != nil {
			return err
		}
	}
	return nil
}

// isFraming tells whether a header says how a message is framed, or is for the next hop only: one side would count other
// messages than the other.
func isFraming(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

func (c *routeChecker) mirror(path string, m *RequestMirror) error {
	if m.Percent != nil && m.Fraction != nil {
		return c.at(path, "want percent or fraction, not both")
	}
	if m.Percent != nil && (*m.Percent < 0 || *m.Percent > 100) {
		return c.at(path+".percent", "want 0 to 100, got %d", *m.Percent)
	}
	if f := m.Fraction; f != nil {
		of := int32(100)
		if f.Denominator != nil {
			of = *f.Denominator
		}
		if of < 1 || f.Numerator < 0 || f.Numerator > of {
			return c.at(path+".fraction", "want a part of the whole, got %d of %d", f.Numerator, of)
		}
	}
	if m.BackendRef.Weight != nil || m.BackendRef.Filters != nil {
		return c.at(path+".backendRef", "has neither weight nor filters: a mirror gets copies")
	}
	return c.backend(path+".backendRef", &m.BackendRef, &RouteRule{})
}

func (c *routeChecker) redirect(path string, x *RequestRedirect, r *RouteRule) error {
	switch {
	case x.Scheme != "" && x.Scheme != "http" && x.Scheme != "https":
		return c.at(path+".scheme", "want http or https, got %q", x.Scheme)
	case x.Hostname != "" && !isHostname(x.Hostname):
		return c.at(path+".hostname", "want a host's name, got %q", x.Hostname)
	case x.Port != nil && *x.Port == 0:
		return c.at(path+".port", "want a port from 1 to 65535")
	}
	if x.StatusCode != nil {
		switch *x.StatusCode {
		case 301, 302, 303, 307, 308:
		default:
			return c.at(path+".statusCode", "want 301, 302, 303, 307 or 308, got %d", *x.StatusCode)
		}
	}
	return c.pathModifier(path+".path", x.Path, r)
}

func (c *routeChecker) pathModifier(path string, m *PathModifier, r *RouteRule) error {
	if m == nil {
		return nil
	}
	var value string
	switch {
	case m.Type == ReplaceFullPath && m.ReplaceFullPath != nil && m.ReplacePrefixMatch == nil:
		path, value = path+".replaceFullPath", *m.ReplaceFullPath
	case m.Type == ReplacePrefixMatch && m.ReplacePrefixMatch != nil && m.ReplaceFullPath == nil:
		if len(r.Matches) != 1 || r.Matches[0].Path != nil && r.Matches[0].Path.Type != "" && r.Matches[0].Path.Type != MatchPrefix {
			return c.at(path, "ReplacePrefixMatch needs a rule with exactly one match, of type PathPrefix: it is that prefix that is replaced")
		}
		path, value = path+".replacePrefixMatch", *m.ReplacePrefixMatch
	default:
		return c.at(path, "want type ReplaceFullPath or ReplacePrefixMatch, and the field of that name")
	}
	if len(value) > maxRoutePath || strings.ContainsAny(value, "?#\\") || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return c.at(path, "want a path of at most %d printable ASCII characters without ?, # and \\, got %q", maxRoutePath, value)
	}
	return nil
}

func (c *routeChecker) cors(path string, f *CORSFilter) error {
	for _, list := range []struct {
		name   string
		values []string
		valid  func(string) bool
		want   string
	}{
		{"allowOrigins", f.AllowOrigins, isOrigin, `"*" or an origin such as https://a.example.com or https://*.example.com`},
		{"allowMethods", f.AllowMethods, func(s string) bool { return s == "*" || isMethod(s) }, `"*" or a method`},
		{"allowHeaders", f.AllowHeaders, isToken, `"*" or a header's name`},
		{"exposeHeaders", f.ExposeHeaders, isToken, `"*" or a header's name`},
	} {
		if len(list.values) > 64 {
			return c.at(path+"."+list.name, "more than 64")
		}
		for i, v := range list.values {
			if !list.valid(v) {
				return c.at(fmt.Sprintf("%s.%s[%d]", path, list.name, i), "want %s, got %q", list.want, v)
			}
			if v == "*" && len(list.values) > 1 {
				return c.at(fmt.Sprintf("%s.%s[%d]", path, list.name, i), `"*" stands alone`)
			}
		}
	}
	if f.MaxAge != nil && *f.MaxAge < 1 {
		return c.at(path+".maxAge", "want seconds from 1, got %d", *f.MaxAge)
	}
	return nil
}

// isOrigin tells whether s is a serialised origin, "*", or one whose host begins with "*.".
func isOrigin(s string) bool {
	if s == "*" {
		return true
	}
	scheme, host, ok := strings.Cut(s, "://")
	if !ok || scheme != "http" && scheme != "https" || len(s) > 253 {
		return false
	}
	name, port, hasPort := strings.Cut(host, ":")
	if hasPort && (port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return false
	}
	return name == "*" || isSubdomain(strings.ToLower(strings.TrimPrefix(name, "*.")))
}

// isToken tells whether s can be the name of a header, a cookie or a query parameter (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	return s != "" && len(s) <= maxNameLength && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// isFieldValue tells whether s can be a header's value (section 5.5).
func isFieldValue(s string) bool {
	return len(s) <= maxMatchValue && s == strings.Trim(s, " \t") && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\t' || r == 0x7f
	})
}
