package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// headerBytes are those of a header's name and of a method (RFC 9110, section 5.6.2), without the asterisk.
const headerBytes = lowerDigits + "ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'+-.^_`|~"

// parseText parses a value that may hold anything that a header or a claim can.
func parseText(value string) (pattern, error) {
	p, err := splitPattern(value)
	if err != nil {
		return p, err
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return p, errors.New("it has a control character")
	}
	if strings.Trim(value, " ") != value {
		return p, errors.New("white space at its ends is not compared: leave it out")
	}
	return p, nil
}

func parseMethod(value string) (pattern, error) {
	p, err := splitPattern(strings.ToUpper(value))
	if err == nil && strings.Trim(p.text, headerBytes) != "" {
		err = errors.New("not a method")
	}
	return p, err
}

func parseHost(value string) (pattern, error) {
	p, err := splitPattern(strings.ToLower(value))
	if err != nil {
		return p, err
	}
	if p.kind == exact || p.kind == suffix {
		p.text = strings.TrimRight(p.text, ".")
	}
	if bare, ok := strings.CutPrefix(p.text, "["); ok && p.kind == exact && strings.Contains(bare, ":") {
		p.text = strings.TrimSuffix(bare, "]")
	}
	switch {
	case p.text == "" && p.kind != anything:
		return p, errors.New("not a host")
	case strings.Count(p.text, ":") == 1:
		return p, errors.New("hosts are compared without their port: leave it out, and ask for it by ports")
	case strings.Trim(p.text, nameBytes+"_:") != "":
		return p, errors.New("it has a character that no host has")
	}
	return p, nil
}

func parsePath(value string) (pattern, error) {
	if strings.ContainsAny(value, "{}") {
		return parseTemplate(value)
	}
	p, err := splitPattern(value)
	if err != nil {
		return p, err
	}
	if p.kind == exact || p.kind == prefix {
		if p.text[0] != '/' {
			return p, errors.New("a path begins with a slash")
		}
	}
	return cleanPath(p)
}

// cleanPath brings a pattern's text into the form that requests' paths have, and refuses what no path has in that form.
func cleanPath(p pattern) (pattern, error) {
	var err error
	if err = checkPath(p); err != nil {
		return p, err
	}
	if p.text, err = cleanEscapes(p.text); err != nil {
		return p, err
	}
	return p, checkPath(p)
}

// cleanEscapes decodes escaped characters that need no escape (RFC 3986, section 2.3), and escapes what does.
func cleanEscapes(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '%' {
			if i+2 >= len(text) {
				return "", errEscape
			}
			n, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
			if err != nil {
				return "", errEscape
			}
			i += 2
			if c = byte(n); !isUnreserved(c) {
				fmt.Fprintf(&b, "%%%02X", c)
				continue
			}
		}
		if isUnreserved(c) || strings.IndexByte("/!$&'()*+,;=:@{}", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String(), nil
}

var errEscape = errors.New("a percent sign in a path is followed by two hexadecimal digits")

func isUnreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// checkPath refuses what no normalised path has.
func checkPath(p pattern) error {
	switch {
	case strings.ContainsAny(p.text, "?#\\"):
		return errors.New("a path has no query and no fragment, and no backslash")
	case strings.ContainsFunc(p.text, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return errors.New("a path has no white space")
	case strings.Contains(p.text, "//"):
		return errors.New("paths are compared normalised, and have no empty elements then")
	}
	elements := strings.Split(p.text, "/")
	for i, e := range elements {
		cut := i == 0 && p.kind == suffix || i == len(elements)-1 && p.kind == prefix
		if (e == "." || e == "..") && !cut {
			return errors.New("paths are compared normalised, and have no dot segments then")
		}
	}
	return nil
}

// parseTemplate parses a path with {*} or {**} in place of whole elements.
func parseTemplate(value string) (pattern, error) {
	p := pattern{kind: template, text: value}
	switch {
	case len(value) > maxValueBytes:
		return p, errors.New("the value is longer than 1024 bytes")
	case value[0] != '/':
		return p, errors.New("a path begins with a slash")
	}
	last := false
	for e := range strings.SplitSeq(value[1:], "/") {
		operator := e == "{*}" || e == "{**}"
		if !operator && strings.ContainsAny(e, "{}*") {
			return p, errors.New("in a template {*} and {**} stand for whole elements, and nothing else does")
		}
		if operator && last {
			return p, errors.New("{**} is the last operator of a template")
		}
		last = last || e == "{**}"
	}
	return cleanPath(p)
}

// matchTemplate matches element by element: {*} is one that is not empty, {**} whatever is left but for the text behind
// it.
func matchTemplate(text, path string) bool {
	for {
		if rest, ok := strings.CutPrefix(text, "{**}"); ok {
			return strings.HasSuffix(path, rest)
		}
		want, moreText, textGoesOn := strings.Cut(text, "/")
		element, morePath, pathGoesOn := strings.Cut(path, "/")
		switch {
		case want == "{*}" && element == "", want != "{*}" && want != element, textGoesOn != pathGoesOn:
			return false
		case !textGoesOn:
			return true
		}
		text, path = moreText, morePath
	}
}
