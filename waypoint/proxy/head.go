package proxy

import (
	"bytes"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// violation is what a client does against HTTP's rules, or where they leave two readings.
type violation string

func (v violation) Error() string { return string(v) }

// Why an HTTP/1 request is not taken.
const (
	errBareLF      = violation("a line does not end in CR LF")
	errControl     = violation("a line has a control character")
	errRequestLine = violation("the request line is not METHOD SP target SP HTTP/1.x")
	errFolded      = violation("a header is folded over two lines")
	errField       = violation("a header's line is not name:value")
	errLengths     = violation("Content-Length is no number, or is there twice")
	errCoding      = violation("Transfer-Encoding is not just chunked, once, in HTTP/1.1")
	errFraming     = violation("Content-Length is beside Transfer-Encoding")
	errHosts       = violation("Host is there twice, or not at all")
	errHostTarget  = violation("Host is not what the request's target says")
	errChunk       = violation("a chunk's size or end is not one")
)

// head is what the framing and the addressee of an HTTP/1 request depend on.
type head struct {
	method, target string
	minor          byte // HTTP/1.minor

	host     string
	hosts    int
	length   uint64
	lengths  int
	codings  int
	chunked  bool
	switches bool // asks for another protocol on the connection
}

func (h *head) takeRequestLine(line []byte) error {
	method, rest, one := bytes.Cut(line, []byte(" "))
	target, version, two := bytes.Cut(rest, []byte(" ")) // a third space is in the version, and makes it none
	if !one || !two || len(target) == 0 || !isToken(method) {
		return errRequestLine
	}
	if string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0" {
		return errRequestLine
	}
	h.method, h.target, h.minor = nameOf(method), string(target), version[len(version)-1]-'0'
	h.switches = h.method == "CONNECT"
	return nil
}

// nameOf is the method as a string, without a new one for those that nearly all requests have.
func nameOf(method []byte) string {
	for _, known := range [...]string{"GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"} {
		if string(method) == known {
			return known
		}
	}
	return string(method)
}

func (h *head) takeField(line []byte) error {
	name, value, err := splitField(line)
	if err != nil {
		return err
	}
	switch {
	case equal(name, "Host"):
		h.hosts++
		h.host = string(value)
	case equal(name, "Content-Length"):
		return h.takeLength(value)
	case equal(name, "Transfer-Encoding"):
		h.codings++
		h.chunked = equal(value, "chunked")
	case equal(name, "Upgrade"):
		h.switches = true
	}
	return nil
}

func (h *head) takeLength(value []byte) (err error) {
	h.lengths++
	for _, c := range value {
		if c < '0' || c > '9' {
			return errLengths
		}
	}
	if h.length, err = strconv.ParseUint(string(value), 10, 63); err != nil || h.lengths > 1 {
		return errLengths
	}
	return nil
}

// check is about the head as a whole.
func (h *head) check() error {
	switch {
	case h.codings > 0 && h.lengths > 0:
		return errFraming
	case h.codings > 1, h.codings == 1 && (!h.chunked || h.minor == 0):
		return errCoding
	case h.hosts > 1, h.hosts == 0 && h.minor > 0:
		return errHosts
	}
	if _, ok := bareHost(h.host); !ok && (h.host != "" || h.minor > 0) {
		return errHost
	}
	return h.checkTarget()
}

// checkTarget refuses what net/http would refuse without telling anybody; the rest is for whoever reads the request.
func (h *head) checkTarget() error {
	authority, ok := authorityOf(h.method, h.target)
	if !ok {
		if h.target[0] != '/' && h.target != "*" {
			return errTarget
		}
		return checkEscapes(h.target)
	}
	if _, valid := bareHost(authority); !valid {
		return errHost
	}
	if h.hosts > 0 && !strings.EqualFold(authority, h.host) {
		return errHostTarget
	}
	if h.method == "CONNECT" {
		return nil
	}
	target, err := withoutAuthority(h.target)
	if err != nil {
		return err
	}
	return checkEscapes(target)
}

// checkEscapes is about a target's path.
func checkEscapes(target string) error {
	path, _, _ := strings.Cut(target, "?")
	for {
		i := strings.IndexByte(path, '%')
		if i < 0 {
			return nil
		}
		if _, ok := unhex(path[i+1:]); !ok {
			return errPathEscape
		}
		path = path[i+3:]
	}
}

// authorityOf returns the authority that a request's target names itself; false for the usual target, a path.
func authorityOf(method, target string) (string, bool) {
	if method == "CONNECT" {
		return target, true
	}
	_, rest, absolute := strings.Cut(target, "://")
	if target[0] == '/' || !absolute {
		return "", false
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	return rest, true
}

// splitField splits a header's line, without its end.
func splitField(line []byte) (name, value []byte, err error) {
	if line[0] == ' ' || line[0] == '\t' {
		return nil, nil, errFolded
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !isToken(name) {
		return nil, nil, errField
	}
	return name, bytes.Trim(value, " \t"), nil
}

func isToken(name []byte) bool {
	for _, c := range name {
		if !httpguts.IsTokenRune(rune(c)) {
			return false
		}
	}
	return len(name) > 0
}

func equal(b []byte, s string) bool { return len(b) == len(s) && strings.EqualFold(string(b), s) }
