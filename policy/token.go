package policy

import (
	"encoding/json"
	"strconv"
	"strings"
)

func (c *condition) matchesToken(t *Token, action Action) bool {
	if t.IsZero() {
		return len(c.values) == 0 && action != Allow
	}
	switch {
	case c.audiences:
		return c.matchesSet(t.Audiences, action)
	case c.presenter:
		return c.matchesClaim(t.Presenter, t.Presenter != "", action)
	}
	claim, ok := lookupClaim(t.Claims, c.claim)
	return c.matchesClaim(claim, ok, action)
}

func (c *condition) matchesSet(members []string, action Action) bool {
	return (len(c.values) == 0 || anyOf(c.values, members)) && !anyOf(c.excluded, members)
}

func anyOf(patterns []pattern, texts []string) bool {
	for _, text := range texts {
		if anyText(patterns, text) {
			return true
		}
	}
	return false
}

// matchesClaim is about a claim that may be missing. An object, or a list with one, has something that cannot be
// compared: in an ALLOW policy it may be what is excluded.
func (c *condition) matchesClaim(claim any, there bool, action Action) bool {
	if !there {
		return len(c.values) == 0
	}
	if action == Allow && len(c.excluded) > 0 && !isComparable(claim) {
		return false
	}
	spaced := len(c.claim) == 1 && isSpaced(c.claim[0])
	return (len(c.values) == 0 || anyClaim(c.values, claim, spaced)) && !anyClaim(c.excluded, claim, spaced)
}

func isComparable(claim any) bool {
	members, list := claim.([]any)
	if !list {
		_, text := claimText(claim)
		return text
	}
	for _, m := range members {
		if _, text := claimText(m); !text {
			return false
		}
	}
	return true
}

// isSpaced tells whether a claim is a list in one string (RFC 8693, section 4.2).
func isSpaced(claim string) bool { return claim == "scope" || claim == "scp" || claim == "permission" }

func lookupClaim(claims map[string]any, path []string) (any, bool) {
	for i, name := range path {
		value, ok := claims[name]
		if !ok || value == nil {
			return nil, false
		}
		if i == len(path)-1 {
			return value, true
		}
		if claims, ok = value.(map[string]any); !ok {
			return nil, false
		}
	}
	return nil, false
}

// anyClaim tells whether a claim, or a member of it, matches a pattern.
func anyClaim(patterns []pattern, claim any, spaced bool) bool {
	if members, list := claim.([]any); list {
		for _, m := range members {
			if text, ok := claimText(m); ok && anyText(patterns, text) {
				return true
			}
		}
		return false
	}
	text, ok := claimText(claim)
	if !ok {
		return false
	}
	if anyText(patterns, text) {
		return true
	}
	for rest, more := text, spaced && strings.Contains(text, " "); more; {
		var member string
		member, rest, more = strings.Cut(rest, " ")
		if member != "" && anyText(patterns, member) {
			return true
		}
	}
	return false
}

func claimText(claim any) (string, bool) {
	switch v := claim.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}
