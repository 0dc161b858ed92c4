package authn

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/warren-mesh/warren/policy"
)

const (
	maxTokens     = 4
	maxTokenBytes = 16 << 10
)

// place is where a token may be.
type place struct {
	kind   placeKind
	name   string
	prefix string
}

type placeKind uint8

const (
	inHeader placeKind = iota
	inParam
	inCookie
)

// found is one token, and the rules that look where it is.
type found struct {
	place place
	token string
	rules []looker
}

// looker is a rule that looks somewhere, and which of all it is.
type looker struct {
	rule  *policy.JWTRule
	by    *policy.Authentication
	order int
}

// find returns every token of a request that a rule looks for.
func find(apply []*policy.Authentication, r *http.Request) ([]found, error) {
	f := finder{request: r}
	order := 0
	for _, a := range apply {
		for i := range a.Rules {
			for _, p := range placesOf(&a.Rules[i]) {
				order++
				if err := f.look(p, looker{rule: &a.Rules[i], by: a, order: order}); err != nil {
					return nil, err
				}
			}
		}
	}
	return f.all, nil
}

func placesOf(rule *policy.JWTRule) []place {
	if len(rule.FromHeaders)+len(rule.FromParams)+len(rule.FromCookies) == 0 {
		return []place{{inHeader, "Authorization", "Bearer "}}
	}
	var places []place
	for _, h := range rule.FromHeaders {
		places = append(places, place{inHeader, http.CanonicalHeaderKey(h.Name), h.Prefix})
	}
	for _, p := range rule.FromParams {
		places = append(places, place{inParam, p, ""})
	}
	for _, c := range rule.FromCookies {
		places = append(places, place{inCookie, c, ""})
	}
	return places
}

// finder collects tokens, each once for a place.
type finder struct {
	request *http.Request
	query   url.Values // nil until somebody looks there
	all     []found
}

func (f *finder) look(p place, by looker) error {
	for _, token := range f.tokensAt(p) {
		if len(token) > maxTokenBytes {
			return invalid("a token is longer than 16 KiB")
		}
		if !f.join(p, token, by) {
			if len(f.all) == maxTokens {
				return invalid("the request has more than 4 tokens")
			}
			f.all = append(f.all, found{place: p, token: token, rules: []looker{by}})
		}
	}
	return nil
}

// join adds a rule to a token that is known already.
func (f *finder) join(p place, token string, by looker) bool {
	for i := range f.all {
		if f.all[i].place == p && f.all[i].token == token {
			f.all[i].rules = append(f.all[i].rules, by)
			return true
		}
	}
	return false
}

func (f *finder) tokensAt(p place) []string {
	var tokens []string
	switch p.kind {
	case inHeader:
		for _, line := range f.request.Header[p.name] {
			if token, ok := cutPrefix(line, p.prefix); ok {
				tokens = append(tokens, token)
			}
		}
	case inParam:
		if f.query == nil {
			f.query = f.request.URL.Query()
		}
		tokens = f.query[p.name]
	case inCookie:
		for _, c := range f.request.CookiesNamed(p.name) {
			tokens = append(tokens, c.Value)
		}
	}
	return tokens
}

// cutPrefix returns what a header's value has behind a prefix, whose case does not count (RFC 9110, section 11.1). A
// value without the prefix is something else, such as another scheme.
func cutPrefix(value, prefix string) (string, bool) {
	if len(value) < len(prefix) || !strings.EqualFold(value[:len(prefix)], prefix) {
		return "", false
	}
	token := strings.TrimSpace(value[len(prefix):])
	return token, token != ""
}
