package policy

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// referenceExpression is a pattern as a regular expression, of which a template's operators are the longer words.
func referenceExpression(value string) *regexp.Regexp {
	e := regexp.QuoteMeta(value)
	e = strings.ReplaceAll(e, `\{\*\*\}`, "DOUBLE")
	e = strings.ReplaceAll(e, `\{\*\}`, "SINGLE")
	e = strings.ReplaceAll(e, `\*`, "(?s:.*)")
	e = strings.ReplaceAll(strings.ReplaceAll(e, "DOUBLE", "(?s:.*)"), "SINGLE", "[^/]+")
	return regexp.MustCompile("^(?:" + e + ")$")
}

func referenceAny(values []string, texts ...string) truth {
	for _, v := range values {
		for _, text := range texts {
			if referenceExpression(v).MatchString(text) {
				return yes
			}
		}
	}
	return no
}

// unless gives unknown for a fact that is not there.
func unless(absent bool, known truth) truth {
	if absent {
		return unknown
	}
	return known
}

func referencePrincipals(action Action, s Source, r *Request) bool {
	if s.RequestPrincipals == nil && s.NotRequestPrincipals == nil {
		return true
	}
	if r == nil {
		return action != Allow
	}
	absent := r.Token.Subject == "" || r.Token.Issuer == ""
	name := r.Token.Issuer + "/" + r.Token.Subject
	return positive(len(s.RequestPrincipals), unless(absent, referenceAny(s.RequestPrincipals, name))) &&
		negative(action, len(s.NotRequestPrincipals), unless(absent, referenceAny(s.NotRequestPrincipals, name)))
}

func referenceOperation(action Action, o Operation, r *Request) bool {
	lists := [][]string{o.Hosts, o.NotHosts, o.Methods, o.NotMethods, o.Paths, o.NotPaths}
	asked := 0
	for _, l := range lists {
		asked += len(l)
	}
	if asked == 0 {
		return true
	}
	if r == nil {
		return action != Allow
	}
	var host string
	if u, err := url.Parse("http://" + r.Host + "/"); err == nil && strings.Count(r.Host, ":") < 2 || strings.HasPrefix(r.Host, "[") {
		host = strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	} else {
		host = strings.ToLower(r.Host)
	}
	lower := func(values []string) (out []string) {
		for _, v := range values {
			out = append(out, strings.TrimSuffix(strings.ToLower(v), "."))
		}
		return out
	}
	plain := func(values []string) (out []string) {
		for _, v := range values {
			v, _ = url.PathUnescape(v)
			out = append(out, v)
		}
		return out
	}
	texts := []string{host, strings.ToLower(r.Method), r.Path}
	values := [][]string{lower(o.Hosts), lower(o.NotHosts), lower(o.Methods), lower(o.NotMethods), plain(o.Paths), plain(o.NotPaths)}
	for i, text := range texts {
		is, not := values[2*i], values[2*i+1]
		if !positive(len(is), unless(text == "", referenceAny(is, text))) ||
			!negative(action, len(not), unless(text == "", referenceAny(not, text))) {
			return false
		}
	}
	return true
}

func referenceCondition(p *Policy, w Condition, c Conn, r *Request) bool {
	switch w.Key {
	case "source.namespace":
		return referenceSource(p, Source{Namespaces: w.Values, NotNamespaces: w.NotValues}, c)
	case "source.principal":
		return referenceSource(p, Source{Principals: w.Values, NotPrincipals: w.NotValues}, c)
	case "source.ip":
		return referenceSource(p, Source{IPBlocks: referencePrefixes(w.Values), NotIPBlocks: referencePrefixes(w.NotValues)}, c)
	case "destination.port":
		port := func(values []string) truth {
			return unless(c.Dst.Port() == 0, referenceAny(values, fmt.Sprint(c.Dst.Port())))
		}
		return positive(len(w.Values), port(w.Values)) && negative(p.Action, len(w.NotValues), port(w.NotValues))
	}
	if r == nil {
		return p.Action != Allow
	}
	name := w.Key[strings.Index(w.Key, "[")+1:]
	switch {
	case strings.HasPrefix(w.Key, "request.headers"):
		return referenceHeader(p.Action, w, r.Header[map[string]string{"x-role]": "X-Role", "X-Other]": "X-Other"}[name]])
	case w.Key == "request.auth.principal":
		return referencePrincipals(p.Action, Source{RequestPrincipals: w.Values, NotRequestPrincipals: w.NotValues}, r)
	}
	return referenceToken(p.Action, w, &r.Token)
}

func referencePrefixes(values []string) (out []netip.Prefix) {
	for _, v := range values {
		if !strings.Contains(v, "/") {
			v += map[bool]string{true: "/128", false: "/32"}[strings.Contains(v, ":")]
		}
		out = append(out, netip.MustParsePrefix(v))
	}
	return out
}

// referenceHeader asks each value alone, and everything that a backend may make of them.
func referenceHeader(action Action, w Condition, lines []string) bool {
	readings := append([]string{}, lines...)
	for _, l := range lines {
		if strings.Contains(l, ",") {
			for _, e := range strings.Split(l, ",") {
				readings = append(readings, strings.TrimSpace(e))
			}
		}
	}
	if len(lines) > 1 {
		readings = append(readings, strings.Join(lines, ","), strings.Join(lines, ", "))
	}
	every := func(values []string) bool {
		for _, l := range lines {
			if referenceAny(values, l) == no {
				return false
			}
		}
		return len(lines) > 0
	}
	if action == Allow {
		return (w.Values == nil || every(w.Values)) && referenceAny(w.NotValues, readings...) == no
	}
	return (w.Values == nil || referenceAny(w.Values, readings...) == yes) && (w.NotValues == nil || !every(w.NotValues))
}

func referenceToken(action Action, w Condition, t *Token) bool {
	if t.Issuer == "" {
		return w.Values == nil && action != Allow
	}
	var texts []string
	opaque, missing := false, false
	switch w.Key {
	case "request.auth.audiences":
		texts = t.Audiences
	case "request.auth.presenter":
		texts, missing = []string{t.Presenter}, t.Presenter == ""
	case "request.auth.claims[a][b]":
		object, _ := t.Claims["a"].(map[string]any)
		missing = object["b"] == nil
		texts, opaque = referenceTexts(object["b"])
	case "request.auth.claims[groups]":
		missing = t.Claims["groups"] == nil
		texts, opaque = referenceTexts(t.Claims["groups"])
	case "request.auth.claims[scope]":
		texts = []string{"read a", "read", "a"}
	}
	if missing {
		texts = nil
	}
	return (w.Values == nil || referenceAny(w.Values, texts...) == yes) && referenceAny(w.NotValues, texts...) == no &&
		(action != Allow || w.NotValues == nil || missing || !opaque)
}

func referenceTexts(claim any) (texts []string, opaque bool) {
	switch v := claim.(type) {
	case []any:
		for _, m := range v {
			more, odd := referenceTexts(m)
			texts, opaque = append(texts, more...), opaque || odd
		}
	case map[string]any:
		opaque = true
	case nil:
	default:
		texts = []string{fmt.Sprint(v)}
	}
	return texts, opaque
}
