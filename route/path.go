package route

import "strings"

const upperHex = "0123456789ABCDEF"

// oneForm brings a route's path into the form that requests' paths have: escaped unreserved characters are decoded, other
// escapes written in upper case (RFC 3986, section 6.2.2).
func oneForm(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c != '%' || i+2 >= len(path) {
			b.WriteByte(c)
			continue
		}
		hi, ok := unhex(path[i+1])
		lo, ok2 := unhex(path[i+2])
		switch c := hi<<4 | lo; {
		case !ok || !ok2:
			b.WriteByte('%')
			continue
		case unreserved(c):
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', upperHex[hi], upperHex[lo]})
		}
		i += 2
	}
	return b.String()
}

func unreserved(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c == '~'
}
