package authn

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/warren-mesh/warren/policy"
)

// removeOutputs removes what only we may set.
func removeOutputs(apply []*policy.Authentication, h http.Header) {
	for _, a := range apply {
		for i := range a.Rules {
			rule := &a.Rules[i]
			if rule.OutputPayloadToHeader != "" {
				h.Del(rule.OutputPayloadToHeader)
			}
			for _, c := range rule.ClaimsToHeaders {
				h.Del(c.Header)
			}
		}
	}
}

func setOutputs(v *verified, h http.Header) {
	if v.rule.OutputPayloadToHeader != "" {
		h.Set(v.rule.OutputPayloadToHeader, encoded(v.payload))
	}
	for _, c := range v.rule.ClaimsToHeaders {
		if text, ok := claimValue(v.token.Claims, c.Claim); ok {
			h.Set(c.Header, text)
		}
	}
}

// claimValue returns a claim as a header's value: text, numbers and booleans as they are, anything else in JSON,
// base64url. The name of a nested one has dots, unless there is a claim of just that name.
func claimValue(all map[string]any, name string) (string, bool) {
	value, ok := all[name]
	for !ok {
		outer, inner, nested := strings.Cut(name, ".")
		next, object := all[outer].(map[string]any)
		if !nested || !object {
			return "", false
		}
		all, name = next, inner
		value, ok = all[name]
	}
	switch v := value.(type) {
	case nil:
		return "", false
	case string:
		return v, isFieldValue(v)
	case json.Number:
		return v.String(), true
	case bool:
		return map[bool]string{true: "true", false: "false"}[v], true
	}
	raw, err := json.Marshal(value)
	return encoded(raw), err == nil
}

// remove takes one token out of a request.
func (f found) remove(r *http.Request) {
	switch f.place.kind {
	case inHeader:
		filter(r.Header, f.place.name, func(line string) (string, bool) {
			token, ok := cutPrefix(line, f.place.prefix)
			return line, !ok || token != f.token
		})
	case inParam:
		r.URL.RawQuery = without(r.URL.RawQuery, "&", func(pair string) bool {
			name, _, _ := strings.Cut(pair, "=")
			name, err := url.QueryUnescape(name)
			return err == nil && name == f.place.name
		})
	case inCookie:
		filter(r.Header, "Cookie", func(line string) (string, bool) {
			line = strings.TrimSpace(without(line, ";", func(pair string) bool {
				name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
				return name == f.place.name
			}))
			return line, line != ""
		})
	}
}

// filter keeps a header's lines as keep returns them.
func filter(h http.Header, name string, keep func(line string) (string, bool)) {
	var kept []string
	for _, line := range h[name] {
		if line, ok := keep(line); ok {
			kept = append(kept, line)
		}
	}
	if kept == nil {
		delete(h, name)
		return
	}
	h[name] = kept
}

// without leaves out the elements of a list that drop chooses, and nothing else.
func without(list, separator string, drop func(element string) bool) string {
	var kept []string
	for element := range strings.SplitSeq(list, separator) {
		if !drop(element) {
			kept = append(kept, element)
		}
	}
	return strings.Join(kept, separator)
}
