package route

import (
	"net/http"
	"strconv"
	"strings"
)

// Apply returns a path as it is changed for a request that fell to a match (nil: one without any). The prefix of an
// exact path is the whole of it; a regular expression has none, and the path stays.
func (p PathChange) Apply(path string, m *Match) string {
	switch p.Kind {
	case ReplaceFull:
		return absolute(p.Value)
	case ReplacePrefix:
		if m != nil && m.Path != "" && m.PathKind == Regex {
			return path
		}
		return replacePrefix(path, m, p.Value)
	default:
		return path
	}
}

// replacePrefix replaces whole elements: what is behind the prefix begins with a / or is empty, and so does the end of
// what takes its place.
func replacePrefix(path string, m *Match, with string) string {
	prefix := ""
	if m != nil {
		prefix = strings.TrimRight(oneForm(m.Path), "/")
	}
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return path
	}
	return absolute(strings.TrimRight(with, "/") + rest)
}

func absolute(path string) string {
	if !strings.HasPrefix(path, "/") {
		return "/" + path
	}
	return path
}

// Asked is what a client asked for, as far as a redirect is made of it.
type Asked struct {
	Scheme   string // http or https
	Host     string // with port, if the client gave one
	Port     uint16 // where it was asked: the service's port
	Path     string // escaped
	RawQuery string
}

// Location returns where a redirect sends a request that fell to a match. A port follows a scheme that the redirect
// names; otherwise it is the one that was asked. Schemes' own ports are left out.
func (d *Redirect) Location(a Asked, m *Match) string {
	scheme, port := a.Scheme, a.Port
	if d.Scheme != "" {
		scheme, port = d.Scheme, wellKnown(d.Scheme)
	}
	if d.Port != 0 {
		port = d.Port
	}
	host := d.Hostname
	if host == "" {
		host = HostOf(a.Host)
	}
	if port != 0 && port != wellKnown(scheme) {
		host += ":" + strconv.Itoa(int(port))
	}
	to := scheme + "://" + host + d.Path.Apply(a.Path, m)
	if a.RawQuery != "" {
		to += "?" + a.RawQuery
	}
	return to
}

func wellKnown(scheme string) uint16 {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}

// Apply changes an answer's header.
func (m *HeaderModifier) Apply(h http.Header) {
	for _, line := range m.Set {
		h.Set(line.Name, line.Value)
	}
	for _, line := range m.Add {
		h.Add(line.Name, line.Value)
	}
	for _, name := range m.Remove {
		h.Del(name)
	}
}

// ApplyRequest changes a request's header, its Host included. That one can be replaced, but not doubled or removed.
func (m *HeaderModifier) ApplyRequest(r *http.Request) {
	m.Apply(r.Header)
	for _, line := range m.Set {
		if http.CanonicalHeaderKey(line.Name) == "Host" {
			r.Host = line.Value
		}
	}
	r.Header.Del("Host")
}

// Empty tells whether there is nothing to change.
func (m *HeaderModifier) Empty() bool { return len(m.Set)+len(m.Add)+len(m.Remove) == 0 }
