package proxy

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

// asked is what a request asks for, in one form.
type asked struct {
	host  string // as the client wrote it, with its port
	bare  string // without port and trailing dot, in lower case
	path  string // as cleanPath returns it; "*" for the whole server, "" for CONNECT
	query string
	grpc  bool
	// upgrade is the protocol that the client wants to switch to, "" if it wants none.
	upgrade string
	// unscreened is true if what follows the request on its connection was not read along: see screen.
	unscreened bool
	// targets are what policies may be attached to that the request is for: the service and the gateway.
	targets []string
}

const (
	errHost      = violation("the host is not a name or address with a port")
	errTwoHosts  = violation("Host is not the request's authority")
	errTarget    = violation("the request's target is not one of http")
	errForwarded = violation("the request has been forwarded as often as it allows")
)

// read brings what is asked for into its one form, or refuses what has none.
func (x *passage) read() *refusal {
	if x.conn == nil || x.world == nil || x.world.Mesh == nil {
		return refusalOf(http.StatusServiceUnavailable, exchange.NoEndpoint, "the waypoint is not ready")
	}
	x.asked.grpc = isGRPC(x.in)
	x.asked.unscreened = x.in.ProtoMajor == 1 && (x.in.Method == http.MethodConnect || x.in.Header["Upgrade"] != nil)
	err := x.readHost()
	if err == nil {
		err = x.readTarget()
	}
	if err == nil {
		err = x.countForwards()
	}
	if err != nil {
		return refusalOf(http.StatusBadRequest, exchange.Malformed, err.Error())
	}
	if x.in.ProtoMajor == 1 && x.in.ProtoAtLeast(1, 1) {
		x.asked.upgrade = stripHop(x.in.Header)
	} else {
		stripHop(x.in.Header) // HTTP/2 has no upgrades, and HTTP/1.0 is not to have any (RFC 9110, 7.8)
	}
	x.p.stampClient(x.in.Header, x.conn, x.asked.host)
	x.rec.Host, x.rec.Path = x.asked.host, x.asked.path
	x.request.Method, x.request.Host, x.request.Path = x.in.Method, x.asked.bare, x.asked.path
	x.request.Header = x.in.Header
	x.in.Host, x.in.URL.RawQuery = x.asked.host, x.asked.query
	return nil
}

// readHost: net/http puts the authority of the target, or else the Host header, into Request.Host. HTTP/2 may have both.
func (x *passage) readHost() error {
	r := x.in
	if also := r.Header["Host"]; len(also) > 0 {
		if len(also) > 1 || !strings.EqualFold(also[0], r.Host) {
			return errTwoHosts
		}
		delete(r.Header, "Host")
	}
	host := r.Host
	if host == "" && !r.ProtoAtLeast(1, 1) {
		host = x.dialledHost() // HTTP/1.0 need not say
	}
	bare, ok := bareHost(host)
	if !ok {
		return errHost
	}
	x.asked.host, x.asked.bare = host, bare
	return nil
}

func (x *passage) dialledHost() string {
	if x.conn.Service != nil && x.conn.Service.Hostname != "" {
		return x.conn.Service.Hostname
	}
	return x.conn.Dialled.String()
}

func (x *passage) readTarget() (err error) {
	target := x.in.RequestURI
	switch {
	case x.in.Method == http.MethodConnect:
		return nil
	case target == "*" && x.in.Method == http.MethodOptions:
		x.asked.path = "*"
		return nil
	case target == "":
		return errTarget
	case target[0] != '/':
		if target, err = withoutAuthority(target); err != nil {
			return err
		}
	}
	path, query, _ := strings.Cut(target, "?")
	if x.asked.query, err = cleanQuery(query); err != nil {
		return err
	}
	x.asked.path, err = cleanPath(path, x.p.cfg.KeepEscapedSlashes)
	return err
}

// withoutAuthority takes "http://authority" from a target (RFC 9112, 3.2.2).
func withoutAuthority(target string) (string, error) {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return "", errTarget
	}
	i := strings.IndexAny(rest, "/?#")
	switch {
	case i < 0:
		return "/", nil
	case rest[i] == '/':
		return rest[i:], nil
	}
	return "/" + rest[i:], nil
}

// countForwards is Max-Forwards (RFC 9110, 7.6.2). The waypoint is no one to answer in the app's place.
func (x *passage) countForwards() error {
	if x.in.Method != http.MethodOptions && x.in.Method != http.MethodTrace {
		return nil
	}
	left := x.in.Header.Get("Max-Forwards")
	if left == "" {
		return nil
	}
	n, err := strconv.ParseUint(left, 10, 31)
	if err != nil || n == 0 {
		return errForwarded
	}
	x.in.Header.Set("Max-Forwards", strconv.FormatUint(n-1, 10))
	return nil
}

// bareHost returns a host without its port and trailing dot, in lower case; false if it is not a name or an address.
func bareHost(authority string) (string, bool) {
	host, port := authority, ""
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && !strings.HasSuffix(authority, "]") {
		host, port = authority[:i], authority[i+1:]
		if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "" || strings.HasPrefix(port, "+") {
			return "", false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return strings.ToLower(host), ok && err == nil && addr.Is6()
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 255 {
		return "", false
	}
	for i := 0; i < len(host); i++ {
		if c := host[i]; !unreserved(c) || c == '~' {
			return "", false
		}
	}
	return strings.ToLower(host), !strings.Contains(host, "..") && host[0] != '.'
}

// isGRPC tells whether errors are to be told in gRPC's terms.
func isGRPC(r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && r.ProtoMajor == 2 && (rest == "" || rest[0] == '+' || rest[0] == ';')
}
