package resource

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/route"
)

const (
	maxHeaders = 64 // set, added or removed
	maxMirrors = 16
	maxCORS    = 256 // of each list
)

// framing are the headers that say how a message is framed and what is for the next hop only: to change them would be to
// let one side count other messages than the other.
var framing = [...]string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func decodeFilters(f *meshv1.RouteFilters) (out route.Filters, err error) {
	if f == nil {
		return out, nil
	}
	if out.Request, err = decodeModifier("request_headers", f.GetRequestHeaders()); err != nil {
		return out, err
	}
	if out.Response, err = decodeModifier("response_headers", f.GetResponseHeaders()); err != nil {
		return out, err
	}
	if out.Redirect, err = decodeRedirect(f.GetRedirect()); err != nil {
		return out, fmt.Errorf("redirect: %w", err)
	}
	if out.Rewrite, err = decodeRewrite(f.GetRewrite()); err != nil {
		return out, fmt.Errorf("rewrite: %w", err)
	}
	if out.Mirrors, err = decodeMirrors(f.GetMirrors()); err != nil {
		return out, err
	}
	out.CORS, err = decodeCORS(f.GetCors())
	return out, err
}

func decodeModifier(field string, m *meshv1.HeaderModifier) (out route.HeaderModifier, err error) {
	if len(m.GetSet()) > maxHeaders || len(m.GetAdd()) > maxHeaders || len(m.GetRemove()) > maxHeaders {
		return out, fmt.Errorf("%s: more than %d headers", field, maxHeaders)
	}
	if out.Set, err = decodeHeaders(field, m.GetSet()); err != nil {
		return out, err
	}
	if out.Add, err = decodeHeaders(field, m.GetAdd()); err != nil {
		return out, err
	}
	for _, name := range m.GetRemove() {
		if err := checkHeader(field, name); err != nil {
			return out, err
		}
	}
	out.Remove = m.GetRemove()
	return out, nil
}

func decodeHeaders(field string, wire []*meshv1.Header) ([]route.Header, error) {
	var out []route.Header
	for _, h := range wire {
		if err := checkHeader(field, h.GetName()); err != nil {
			return nil, err
		}
		if len(h.GetValue()) > maxValue || !isFieldValue(h.GetValue()) {
			return nil, fmt.Errorf("%s: %s: %.100q may not be a header's value", field, h.GetName(), h.GetValue())
		}
		out = append(out, route.Header{Name: h.GetName(), Value: h.GetValue()})
	}
	return out, nil
}

func checkHeader(field, name string) error {
	if !isToken(name) {
		return fmt.Errorf("%s: %.100q is not a header's name", field, name)
	}
	if slices.Contains(framing[:], http.CanonicalHeaderKey(name)) {
		return fmt.Errorf("%s: %s says how a message is framed, and cannot be changed", field, name)
	}
	return nil
}

func decodeRedirect(r *meshv1.Redirect) (*route.Redirect, error) {
	if r == nil {
		return nil, nil
	}
	out := &route.Redirect{
		Scheme: r.GetScheme(), Hostname: r.GetHostname(), Port: uint16(r.GetPort()), Status: int(r.GetStatus()),
	}
	if r.GetPort() > 65535 {
		return nil, fmt.Errorf("port %d", r.GetPort())
	}
	if out.Scheme != "" && out.Scheme != "http" && out.Scheme != "https" {
		return nil, fmt.Errorf("scheme: %.100q is neither http nor https", out.Scheme)
	}
	switch r.GetStatus() {
	case 0:
		out.Status = http.StatusFound
	case 301, 302, 303, 307, 308:
	default:
		return nil, fmt.Errorf("status: %d is no redirect", r.GetStatus())
	}
	if err := checkHostname(out.Hostname); err != nil {
		return nil, err
	}
	var err error
	out.Path, err = decodePathChange(r.GetPath())
	return out, err
}

func decodeRewrite(r *meshv1.Rewrite) (*route.Rewrite, error) {
	if r == nil {
		return nil, nil
	}
	if err := checkHostname(r.GetHostname()); err != nil {
		return nil, err
	}
	path, err := decodePathChange(r.GetPath())
	return &route.Rewrite{Hostname: r.GetHostname(), Path: path}, err
}

func decodePathChange(p *meshv1.PathChange) (route.PathChange, error) {
	out := route.PathChange{Value: p.GetValue()}
	switch p.GetKind() {
	case meshv1.PathChange_NONE:
		return route.PathChange{}, nil
	case meshv1.PathChange_FULL:
		out.Kind = route.ReplaceFull
	case meshv1.PathChange_PREFIX:
		out.Kind = route.ReplacePrefix
	default:
		return out, fmt.Errorf("path: kind: %d is none that this version knows", p.GetKind())
	}
	if out.Value == "" {
		return out, nil
	}
	return out, checkPath("path: value", "/"+strings.TrimPrefix(out.Value, "/"))
}

func decodeMirrors(wire []*meshv1.Mirror) ([]route.Mirror, error) {
	if len(wire) > maxMirrors {
		return nil, fmt.Errorf("mirrors: %d, more than %d", len(wire), maxMirrors)
	}
	var out []route.Mirror
	for i, m := range wire {
		mirror := route.Mirror{
			Service: m.GetService(), Port: uint16(m.GetPort()), Numerator: m.GetNumerator(), Denominator: m.GetDenominator(),
			Broken: m.GetBroken(),
		}
		if mirror.Numerator == 0 && mirror.Denominator == 0 { // all
			mirror.Numerator, mirror.Denominator = 1, 1
		}
		if mirror.Numerator > mirror.Denominator || m.GetPort() > 65535 || len(mirror.Broken) > maxBroken {
			return nil, fmt.Errorf("mirrors[%d]: %d of %d requests, or port %d",
				i, mirror.Numerator, mirror.Denominator, m.GetPort())
		}
		if mirror.Broken == "" {
			if err := checkReached(mirror.Service, mirror.Port); err != nil {
				return nil, fmt.Errorf("mirrors[%d]: %w", i, err)
			}
		}
		out = append(out, mirror)
	}
	return out, nil
}

func decodeCORS(c *meshv1.CORS) (*route.CORS, error) {
	if c == nil {
		return nil, nil
	}
	lists := map[string][]string{
		"allow_origins": c.GetAllowOrigins(), "allow_methods": c.GetAllowMethods(),
		"allow_headers": c.GetAllowHeaders(), "expose_headers": c.GetExposeHeaders(),
	}
	for field, list := range lists {
		if len(list) > maxCORS {
			return nil, fmt.Errorf("cors: %s: %d, more than %d", field, len(list), maxCORS)
		}
		for _, s := range list {
			if field == "allow_origins" && !isOrigin(s) || field != "allow_origins" && !isToken(s) {
				return nil, fmt.Errorf("cors: %s: %.100q may not stand there", field, s)
			}
		}
	}
	return &route.CORS{
		AllowOrigins: c.GetAllowOrigins(), AllowCredentials: c.GetAllowCredentials(), AllowMethods: c.GetAllowMethods(),
		AllowHeaders: c.GetAllowHeaders(), ExposeHeaders: c.GetExposeHeaders(),
		MaxAge: time.Duration(c.GetMaxAgeSeconds()) * time.Second,
	}, nil
}

func isOrigin(s string) bool {
	scheme, host, ok := strings.Cut(s, "://")
	return s == "*" || ok && (scheme == "http" || scheme == "https") && host != "" && len(s) <= maxToken &&
		!strings.ContainsAny(host, "/?#@ ")
}

// checkHostname takes what may stand in a Host header or a Location: letters, digits, dots, hyphens; empty for none.
func checkHostname(s string) error {
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("hostname: %.100q is not one", s)
		}
	}
	if len(s) > maxName {
		return fmt.Errorf("hostname of %d bytes, more than %d", len(s), maxName)
	}
	return nil
}

// checkPath takes an absolute path of printable ASCII without what ends a path or what readers disagree on.
func checkPath(field, path string) error {
	if len(path) > maxPath || !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%s: %.100q has %d bytes; it must begin with / and have at most %d", field, path, len(path), maxPath)
	}
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f || c == '#' || c == '\\' || c == '?' {
			return fmt.Errorf("%s: %.100q has a character that must be escaped", field, path)
		}
	}
	return nil
}

// isToken tells whether s may be the name of a header or a method (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= maxToken
}

// isFieldValue tells whether s may be a header's value (section 5.5).
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return s == strings.Trim(s, " \t")
}

// isText tells whether s has no control characters.
func isText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
