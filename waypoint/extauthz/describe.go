package extauthz

import (
	"cmp"
	"encoding/pem"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/waypoint/proxy"
)

// maxHeaderBytes bounds what is sent of a request's head. One that has more is refused, not shortened: the authorizer
// would decide about another request.
const maxHeaderBytes = 256 << 10

// partialBody tells the authorizer whether it got all of the body.
const partialBody = "x-envoy-auth-partial-body"

// describe says of a request what Envoy would.
func describe(q proxy.Question, now time.Time) (*authv3.CheckRequest, error) {
	r := q.Request
	h, err := headers(q)
	if err != nil {
		return nil, err
	}
	out := &authv3.AttributeContext_HttpRequest{
		Id: h["x-request-id"], Method: h[":method"], Path: h[":path"], Query: text(r.URL.RawQuery), Host: h[":authority"],
		Scheme: h[":scheme"], Headers: h, Size: r.ContentLength, Protocol: protocol(r),
	}
	if utf8.Valid(q.Body) {
		out.Body = string(q.Body)
	} else {
		out.RawBody = q.Body
	}
	source := peer(q.Conn.Client, q.Conn.ClientAddr)
	if q.Conn.ClientCert != nil {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: q.Conn.ClientCert})
		source.Certificate = url.PathEscape(string(block))
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: source, Destination: peer(identity.ID{}, q.Conn.Dialled), // whose identity it is, is chosen later
		Request: &authv3.AttributeContext_Request{Time: timestamppb.New(now), Http: out},
	}}, nil
}

func headers(q proxy.Question) (map[string]string, error) {
	r := q.Request
	path := q.Path
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	h := map[string]string{":method": text(r.Method), ":path": text(path), ":authority": text(r.Host), ":scheme": "http"}
	total := len(r.Host) + len(path)
	for name, lines := range r.Header {
		value := strings.Join(lines, ",")
		total += len(name) + len(value)
		h[strings.ToLower(name)] = text(value)
	}
	if total > maxHeaderBytes {
		return nil, errors.New("the request's head is too large to ask about")
	}
	delete(h, partialBody)
	if q.By.MaxBodyBytes > 0 {
		h[partialBody] = strconv.FormatBool(q.Partial)
	}
	return h, nil
}

// text is s with '!' for what is not UTF-8, as protocol buffers need it.
func text(s string) string { return strings.ToValidUTF8(s, "!") }

func protocol(r *http.Request) string {
	if r.ProtoMajor == 2 {
		return "HTTP/2"
	}
	return cmp.Or(r.Proto, "HTTP/1.1")
}

func peer(id identity.ID, at netip.AddrPort) *authv3.AttributeContext_Peer {
	p := &authv3.AttributeContext_Peer{Principal: id.String()}
	if at.IsValid() {
		p.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: at.Addr().Unmap().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(at.Port())},
		}}}
	}
	return p
}

// authority is what an authorizer sees as its own name: "<name>.<namespace>".
func authority(at endpoint) string {
	namespace, name, _ := strings.Cut(at.service, "/")
	return name + "." + namespace
}
