package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

// stripHop removes what is for the next hop alone (RFC 9110, 7.6.1), and returns the protocol that is asked for or
// switched to. TE stays as far as it says that trailers are taken, which gRPC's servers insist on.
func stripHop(h http.Header) (upgrade string) {
	connection := h["Connection"]
	if httpguts.HeaderValuesContainsToken(connection, "upgrade") {
		upgrade = strings.Join(h["Upgrade"], ", ")
	}
	trailers := httpguts.HeaderValuesContainsToken(h["Te"], "trailers")
	for _, line := range connection {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range [...]string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	} {
		delete(h, name)
	}
	if trailers {
		h["Te"] = []string{"trailers"}
	}
	return upgrade
}

// proved are headers that say who a client is, or was said to be. Nobody's word counts but the waypoint's.
func proved(name string) bool {
	if strings.IndexByte(name, '_') >= 0 { // a gateway of the CGI kind reads it as a dash
		name = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	}
	switch name {
	case "Forwarded", "X-Real-Ip", "Client-Cert", "Client-Cert-Chain":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Warren-")
}

// chain are the headers in which forwarders before the client have put their word, each behind the others'.
func chained(name string) bool {
	switch name {
	case "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host":
		return true
	}
	return false
}

// stampClient replaces what a request says about its client by what is known. A forwarder that is trusted keeps its word
// about those before it.
func (p *Proxy) stampClient(h http.Header, c *exchange.Conn, host string) {
	trusted := p.cfg.TrustForwarded != nil && p.cfg.TrustForwarded(c.Client)
	for name := range h {
		if proved(name) && (!trusted || !chained(name)) {
			delete(h, name)
		}
	}
	addr := c.ClientAddr.Addr().Unmap().WithZone("")
	who := ""
	if addr.IsValid() {
		who = addr.String()
	}
	values := new([4]string) // one allocation
	if who != "" {
		push(h, "X-Forwarded-For", who, values[0:1:1])
	}
	push(h, "Forwarded", forwarded(addr, who, host), values[1:2:2])
	if h["X-Forwarded-Proto"] == nil {
		push(h, "X-Forwarded-Proto", "http", values[2:3:3])
	}
	if h["X-Forwarded-Host"] == nil {
		push(h, "X-Forwarded-Host", host, values[3:4:4])
	}
	if p.cfg.ClientCertHeader && len(c.ClientCert) > 0 {
		h["X-Forwarded-Client-Cert"] = []string{clientCert(c)}
	}
}

// push puts a value behind those that are there, in a list of one that is the header's own.
func push(h http.Header, name, value string, list []string) {
	if before := h[name]; len(before) > 0 {
		value = strings.Join(before, ", ") + ", " + value
	}
	list[0] = value
	h[name] = list
}

// forwarded is one element of RFC 7239; who is the address as a string.
func forwarded(addr netip.Addr, who, host string) string {
	switch {
	case !addr.IsValid():
		who = "unknown"
	case addr.Is6():
		who = `"[` + who + `]"`
	}
	if !httpguts.ValidHeaderFieldName(host) { // not a token: it has a port
		host = `"` + host + `"`
	}
	return "for=" + who + ";host=" + host + ";proto=http"
}

// clientCert is the value of X-Forwarded-Client-Cert, in the form that Envoy gave it.
func clientCert(c *exchange.Conn) string {
	sum := sha256.Sum256(c.ClientCert)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ClientCert})
	return "Hash=" + hex.EncodeToString(sum[:]) + `;Cert="` +
		strings.ReplaceAll(url.QueryEscape(string(text)), "+", "%20") + `";URI=` + c.Client.String()
}
