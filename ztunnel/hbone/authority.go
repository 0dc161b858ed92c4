package hbone

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ErrHostname is returned by ParseAuthority for a well-formed host name and port.
var ErrHostname = errors.New("authority is a host name")

// ErrAuthority is returned by ParseAuthority for anything that is neither an address nor a host name with a port.
var ErrAuthority = errors.New("authority is malformed")

// Lengths in bytes that a Request's fields may have. Longer ones are not sent; received ones are dropped, except that a
// long authority is refused.
const (
	MaxAuthority   = 253 + 1 + 5
	MaxForwarded   = 1 << 10
	MaxTraceparent = 128
	MaxBaggage     = 4 << 10
)

// Request is a CONNECT. Only Authority has a meaning for the tunnel; the rest is for attribution and must not decide
// anything, since a peer may say what it likes there.
type Request struct {
	Authority   string // "10.0.0.7:8080", "[fd00::7]:8080" or, to a waypoint or gateway, "host.name:8080"
	Forwarded   string // RFC 7239, e.g. `for="10.0.0.3:4711"`
	Traceparent string // W3C trace context, "" if there is none
	Baggage     string // W3C baggage, "" if there is none
}

// check returns ErrBadRequest if the request cannot be sent.
func (r Request) check() error {
	if r.Authority == "" || !validAuthority(r.Authority) {
		return fmt.Errorf("CONNECT to %.64q: authority is empty, too long or has forbidden characters: %w", r.Authority, ErrBadRequest)
	}
	for _, f := range []struct {
		name, value string
		limit       int
	}{
		{"forwarded", r.Forwarded, MaxForwarded},
		{"traceparent", r.Traceparent, MaxTraceparent},
		{"baggage", r.Baggage, MaxBaggage},
	} {
		if len(f.value) > f.limit || !httpguts.ValidHeaderFieldValue(f.value) {
			return fmt.Errorf("CONNECT to %s: header %s is longer than %d bytes or has control characters: %w", r.Authority, f.name, f.limit, ErrBadRequest)
		}
	}
	return nil
}

// validAuthority tells whether s is made of the characters of "uri-host:port" only: no user info, no space, no NUL.
func validAuthority(s string) bool {
	if len(s) > MaxAuthority {
		return false
	}
	for i := range len(s) {
		c := s[i]
		ok := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '.' || c == '-' || c == '_' || c == ':' || c == '[' || c == ']'
		if !ok {
			return false
		}
	}
	return true
}

// ParseAuthority reads the target of a CONNECT: "1.2.3.4:80" or "[::1]:80". It is deliberately narrower than net/url.
// Returns ErrHostname for "host.name:80" and ErrAuthority for the rest, among it zones, IPv4-mapped addresses (one
// destination has one spelling of its family), port 0 and ports with leading zeros.
func ParseAuthority(s string) (netip.AddrPort, error) {
	colon := strings.LastIndexByte(s, ':')
	if !validAuthority(s) || colon < 0 {
		return netip.AddrPort{}, fmt.Errorf("%.64q: want address:port: %w", s, ErrAuthority)
	}
	host, port := s[:colon], s[colon+1:]
	if port == "" || len(port) > 5 || port[0] == '0' || strings.Trim(port, "0123456789") != "" {
		return netip.AddrPort{}, fmt.Errorf("%.64q: port must be 1 to 65535 without leading zeros: %w", s, ErrAuthority)
	}
	ap, err := netip.ParseAddrPort(s)
	switch {
	case err != nil && isHostname(host):
		if len(port) == 5 && port > "65535" {
			return netip.AddrPort{}, fmt.Errorf("%.64q: port is above 65535: %w", s, ErrAuthority)
		}
		return netip.AddrPort{}, fmt.Errorf("%.64q: %w", s, ErrHostname)
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("%.64q: %w", s, ErrAuthority)
	case ap.Addr().Is4In6() || ap.Addr().Zone() != "":
		return netip.AddrPort{}, fmt.Errorf("%.64q: IPv4-mapped addresses and zones are not allowed: %w", s, ErrAuthority)
	}
	return ap, nil
}

// isHostname tells whether s is labels of letters, digits and hyphens whose last one does not look like a number, so
// that no broken IPv4 address passes for a name.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsAny(l, ":[]_") {
			return false
		}
	}
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(strings.ToLower(last), "0x")
}
