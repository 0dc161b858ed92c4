package route

import (
	"fmt"
	"net/url"
	"regexp"
	"regexp/syntax"
	"strings"
)

const (
	maxPattern = 4096
	// What an expression may be compiled to: a repetition of a repetition makes a short one large.
	maxProgram = 10_000
)

// PatternCost returns how many instructions a regular expression (RE2) is compiled to, or what is wrong with it.
func PatternCost(pattern string) (int, error) {
	if len(pattern) > maxPattern {
		return 0, fmt.Errorf("a regular expression of %d bytes, more than %d", len(pattern), maxPattern)
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, fmt.Errorf("%q is not a regular expression (RE2): %w", pattern, err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return 0, fmt.Errorf("%q is not a regular expression (RE2): %w", pattern, err)
	}
	if len(prog.Inst) > maxProgram {
		return 0, fmt.Errorf("the regular expression %q is too complex: %d instructions, more than %d",
			pattern, len(prog.Inst), maxProgram)
	}
	return len(prog.Inst), nil
}

// compilePattern compiles an expression that must match the whole of what it is held against.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	if _, err := PatternCost(pattern); err != nil {
		return nil, err
	}
	return regexp.Compile(`\A(?:` + pattern + `)\z`)
}

// value is a compiled ValueMatch.
type value struct {
	name, text string
	pattern    *regexp.Regexp // nil: text, exactly
}

// values are all to match.
type values struct{ all []value }

// newValues compiles matches, of those with one name the first. canonical makes equivalent names equal.
func newValues(matches []ValueMatch, canonical func(string) string) (*values, error) {
	out := &values{}
	seen := make(map[string]bool, len(matches))
	for _, m := range matches {
		v := value{name: canonical(m.Name), text: m.Value}
		if seen[v.name] {
			continue
		}
		seen[v.name] = true
		if m.Regex {
			var err error
			if v.pattern, err = compilePattern(m.Value); err != nil {
				return nil, fmt.Errorf("%s: %w", m.Name, err)
			}
		}
		out.all = append(out.all, v)
	}
	return out, nil
}

func asIs(name string) string { return name }

// matchHeaders holds the values against a request's header.
func (vs *values) matchHeaders(r *Request) bool {
	for i := range vs.all {
		v := &vs.all[i]
		if text, ok := r.header(v.name); !ok || !v.match(text) {
			return false
		}
	}
	return true
}

// matchQuery holds the values against the first parameter of each name.
func (vs *values) matchQuery(raw string) bool {
	for i := range vs.all {
		if v := &vs.all[i]; !v.matchParameter(raw) {
			return false
		}
	}
	return true
}

func (v *value) match(s string) bool {
	if v.pattern != nil {
		return v.pattern.MatchString(s)
	}
	return s == v.text
}

func (v *value) matchParameter(raw string) bool {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		name, escaped, _ := strings.Cut(pair, "=")
		if !equalUnescaped(name, v.name) {
			continue
		}
		if v.pattern == nil {
			return equalUnescaped(escaped, v.text)
		}
		s, err := url.QueryUnescape(escaped)
		return err == nil && v.pattern.MatchString(s)
	}
	return false
}

// equalUnescaped tells whether a part of a query is text once it is unescaped. What cannot be unescaped equals nothing.
func equalUnescaped(escaped, text string) bool {
	n := 0
	for i := 0; i < len(escaped); i++ {
		c := escaped[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(escaped) {
				return false
			}
			hi, ok := unhex(escaped[i+1])
			lo, ok2 := unhex(escaped[i+2])
			if !ok || !ok2 {
				return false
			}
			c = hi<<4 | lo
			i += 2
		}
		if n >= len(text) || text[n] != c {
			return false
		}
		n++
	}
	return n == len(text)
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
