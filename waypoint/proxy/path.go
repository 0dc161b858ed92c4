package proxy

import (
	"fmt"
	"strings"
)

// Why a path is not taken: what two readers of it could read differently.
const (
	errPathForm      = violation("the path does not begin with a slash")
	errPathEscape    = violation("the path has a percent sign that two hexadecimal digits do not follow")
	errPathSeparator = violation("the path has an escaped slash, or a backslash")
	errPathControl   = violation("the path has a control character, plain or escaped")
	errPathOverlong  = violation("the path has an overlong UTF-8 sequence")
	errPathDots      = violation("the path has a dot segment with a parameter")
	errPathAbove     = violation("the path climbs above its root")
	errPathFragment  = violation("the request's target has a fragment")
)

// cleanPath returns the one form of a path, still escaped, that routing, policy and the backend see. It
//
//   - decodes escaped unreserved characters (RFC 3986, 2.3) and writes other escapes in upper case (6.2.2),
//   - escapes what may not stand in a path as it is, such as spaces, quotes and bytes above 0x7f,
//   - merges slashes, and then removes dot segments (5.2.4).
//
// It refuses what readers are known to disagree on: escaped slashes (unless they are kept, as they are) and backslashes in
// any form, control characters, overlong UTF-8, dots with a path parameter ("..;x"), and paths that climb above the root.
// It is idempotent.
func cleanPath(raw string, keepSlashes bool) (string, error) {
	if raw == "" || raw[0] != '/' {
		return "", errPathForm
	}
	if isClean(raw) {
		return raw, nil
	}
	decoded, err := decodeUnreserved(raw, keepSlashes)
	if err != nil {
		return "", err
	}
	return removeDots(decoded)
}

// isClean tells whether a path certainly is in its one form, which nearly all are.
func isClean(path string) bool {
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '/':
			if i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
				return false
			}
		case !plain(c):
			return false
		}
	}
	return true
}

// decodeUnreserved brings every character into its one form.
func decodeUnreserved(raw string, keepSlashes bool) (string, error) {
	var b strings.Builder
	b.Grow(len(raw) + 8)
	var before [2]byte // the bytes before this one, decoded
	for i := 0; i < len(raw); i++ {
		c, escaped := raw[i], false
		if c == '%' {
			var ok bool
			if c, ok = unhex(raw[i+1:]); !ok {
				return "", errPathEscape
			}
			escaped = true
			i += 2
		}
		if err := checkByte(c, escaped, keepSlashes); err != nil {
			return "", err
		}
		if overlong(before, c) {
			return "", errPathOverlong
		}
		before = [2]byte{before[1], c}
		switch {
		case unreserved(c), !escaped && plain(c):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String(), nil
}

func checkByte(c byte, escaped, keepSlashes bool) error {
	switch {
	case c == '\\', c == '/' && escaped && !keepSlashes:
		return errPathSeparator
	case c < ' ', c == 0x7f:
		return errPathControl
	case c == '#' && !escaped:
		return errPathFragment
	}
	return nil
}

// overlong tells whether c continues a UTF-8 sequence that is longer than its character needs, which lenient decoders
// turn into a slash or a dot all the same.
func overlong(before [2]byte, c byte) bool {
	continues := c >= 0x80 && c < 0xc0
	switch before[1] {
	case 0xc0, 0xc1:
		return continues
	case 0xe0:
		return continues && c < 0xa0
	case 0xf0:
		return continues && c < 0x90
	}
	return false
}

// removeDots merges slashes and resolves dot segments.
func removeDots(path string) (string, error) {
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); {
		i++ // the slash
		end := strings.IndexByte(path[i:], '/')
		last := end < 0
		if last {
			end = len(path) - i
		}
		segment := path[i : i+end]
		i += end
		name, _, parameter := strings.Cut(segment, ";")
		if parameter && (name == "." || name == "..") {
			return "", errPathDots
		}
		switch {
		case segment == "" && !last:
			continue
		case segment == ".":
			segment = ""
		case segment == "..":
			if len(out) == 0 {
				return "", errPathAbove
			}
			out = out[:strings.LastIndexByte(string(out), '/')]
			segment = ""
		}
		if segment != "" || last {
			out = append(out, '/')
			out = append(out, segment...)
		}
	}
	return string(out), nil
}

// unreserved tells whether a character means the same escaped and plain.
func unreserved(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~'
}

// plain tells whether a character may stand in a path unescaped (RFC 3986, 3.3).
func plain(c byte) bool {
	return unreserved(c) || strings.IndexByte("/!$&'()*+,;=:@", c) >= 0
}

func unhex(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	high, low := hexDigit(s[0]), hexDigit(s[1])
	return high<<4 | low, high < 16 && low < 16
}

// hexDigit returns a digit's value, 255 for what is none.
func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

// cleanQuery returns a query, still escaped, with what may not stand in one as it is escaped.
func cleanQuery(raw string) (string, error) {
	dirty := false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '#':
			return "", errPathFragment
		case c < ' ', c == 0x7f:
			return "", errPathControl
		case c == ' ', c >= 0x80:
			dirty = true
		}
	}
	if !dirty {
		return raw, nil
	}
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		if c := raw[i]; c == ' ' || c >= 0x80 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}
