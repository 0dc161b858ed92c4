package policy

import (
	"errors"
	"strings"

	"github.com/warren-mesh/warren/identity"
)

// pattern is one compiled string value.
type pattern struct {
	kind patternKind
	text string // without the asterisk
}

type patternKind uint8

const (
	exact patternKind = iota
	prefix
	suffix
	anything
	template // of a path, with its operators
)

// account is a service account's pattern; both halves must match.
type account struct{ namespace, name pattern }

const (
	maxValueBytes = 1024
	lowerDigits   = "abcdefghijklmnopqrstuvwxyz0123456789"
	labelBytes    = lowerDigits + "-"
	nameBytes     = lowerDigits + "-."
	// A trust domain may hold underscores (SPIFFE-ID, section 2.1).
	principalBytes = lowerDigits + "-._/"
)

// parsePattern parses value, whose text outside the asterisk may hold only the given bytes: any other could never
// match, and a DENY that can never match protects nobody.
func parsePattern(value, allowed string) (pattern, error) {
	p, err := splitPattern(value)
	if err != nil {
		return p, err
	}
	// Trim stops at the first byte that is not allowed, so what is left holds one.
	if strings.Trim(p.text, allowed) != "" {
		return p, errors.New("it has a character that no identity has")
	}
	return p, nil
}

func splitPattern(value string) (pattern, error) {
	p := pattern{kind: exact, text: value}
	switch {
	case value == "":
		return p, errors.New("the value is empty")
	case len(value) > maxValueBytes:
		return p, errors.New("the value is longer than 1024 bytes")
	case value == "*":
		return pattern{kind: anything}, nil
	case value[0] == '*':
		p = pattern{kind: suffix, text: value[1:]}
	case value[len(value)-1] == '*':
		p = pattern{kind: prefix, text: value[:len(value)-1]}
	}
	if strings.Contains(p.text, "*") {
		return p, errors.New("an asterisk may stand only at the beginning or at the end")
	}
	return p, nil
}

func parsePrincipal(value string) (pattern, error) {
	if strings.HasPrefix(value, "spiffe:") {
		return pattern{}, errors.New("principals are written without spiffe://")
	}
	p, err := parsePattern(value, principalBytes)
	if err != nil || p.kind != exact {
		return p, err
	}
	_, err = identity.Parse("spiffe://" + value)
	if err != nil {
		return p, errors.New("not of the form <trust domain>/ns/<namespace>/sa/<service account>")
	}
	return p, nil
}

func parseNamespace(value string) (pattern, error) { return parsePattern(value, labelBytes) }

// parseAccount parses "<namespace>/<name>" or "<name>", which is in namespace own.
func parseAccount(value, own string) (account, error) {
	namespace, name, full := strings.Cut(value, "/")
	if !full {
		if value == "*" {
			return account{}, errors.New(`ambiguous: write "` + own + `/*" for every service account of the namespace, or principals: ["*"] for every identity`)
		}
		p, err := parsePattern(value, nameBytes)
		return account{pattern{exact, own}, p}, err
	}
	ns, err := parsePattern(namespace, labelBytes)
	if err != nil {
		return account{}, err
	}
	p, err := parsePattern(name, nameBytes)
	return account{ns, p}, err
}

func (p pattern) matches(s string) bool {
	switch p.kind {
	case exact:
		return s == p.text
	case prefix:
		return strings.HasPrefix(s, p.text)
	case suffix:
		return strings.HasSuffix(s, p.text)
	case template:
		return matchTemplate(p.text, s)
	}
	return true
}

// matchesPrincipal is matches(id.Principal()) without putting that string together, which would allocate.
func (p pattern) matchesPrincipal(id identity.ID) bool {
	parts := [...]string{id.TrustDomain(), "/ns/", id.Namespace(), "/sa/", id.ServiceAccount()}
	return p.matchesParts(parts[:])
}

// matchesParts is matches(strings.Join(parts, "")).
func (p pattern) matchesParts(parts []string) bool {
	if p.kind == anything {
		return true
	}
	rest := p.text
	if p.kind == suffix {
		for i := len(parts) - 1; i >= 0; i-- {
			if len(rest) <= len(parts[i]) {
				return strings.HasSuffix(parts[i], rest)
			}
			if !strings.HasSuffix(rest, parts[i]) {
				return false
			}
			rest = rest[:len(rest)-len(parts[i])]
		}
		return false
	}
	for i, part := range parts {
		if len(rest) <= len(part) && (p.kind == prefix || i == len(parts)-1) {
			return strings.HasPrefix(part, rest) && (p.kind == prefix || len(part) == len(rest))
		}
		if !strings.HasPrefix(rest, part) {
			return false
		}
		rest = rest[len(part):]
	}
	return false
}
