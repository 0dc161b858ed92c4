package extauthz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/proxy"
)

// authorizer is a real gRPC server that answers as it is told.
type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	address string

	mu     sync.Mutex
	answer func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error)
	asked  []*authv3.CheckRequest
}

func (a *authorizer) Check(ctx context.Context, q *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.mu.Lock()
	a.asked = append(a.asked, q)
	answer := a.answer
	a.mu.Unlock()
	return answer(ctx, q)
}

func (a *authorizer) says(r *authv3.CheckResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) { return r, nil }
}

func (a *authorizer) lastAsked() *authv3.AttributeContext {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[len(a.asked)-1].GetAttributes()
}

func start(t *testing.T) (*authorizer, *Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &authorizer{address: l.Addr().String()}
	a.says(ok(nil))
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, a)
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	x := New(Config{Dial: func(ctx context.Context, service string, port uint16) (net.Conn, error) {
		if service != "auth/opa" || port != 9191 {
			return nil, fmt.Errorf("asked for %s:%d", service, port)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", a.address)
	}})
	t.Cleanup(x.Close)
	return a, x
}

func opa() policy.ExternalAuthorizer {
	return policy.ExternalAuthorizer{Service: "auth/opa", Port: 9191, Timeout: 5 * time.Second}
}

func ok(o *authv3.OkHttpResponse) *authv3.CheckResponse {
	r := &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.OK)}}
	if o != nil {
		r.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: o}
	}
	return r
}

func denied(d *authv3.DeniedHttpResponse) *authv3.CheckResponse {
	r := &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}}
	if d != nil {
		r.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: d}
	}
	return r
}

func headerOf(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}}
}

func question(t *testing.T) proxy.Question {
	t.Helper()
	r := httptest.NewRequest("POST", "http://web.shop/raw?b=c", strings.NewReader("secret"))
	r.Header = http.Header{"X-One": {"1"}, "X-Two": {"a", "b"}, "X-Raw": {"caf\xe9"}, "X-Envoy-Auth-Partial-Body": {"forged"}, "X-Request-Id": {"r1"}}
	web, err := identity.New("mesh", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	return proxy.Question{By: opa(), Request: r, Path: "/a", Conn: &exchange.Conn{
		Client: web, ClientAddr: netip.MustParseAddrPort("[::ffff:10.0.0.1]:4711"), Dialled: netip.MustParseAddrPort("10.96.0.1:80"), ClientCert: []byte("der"),
	}}
}

func TestAuthorizerIsToldWhatEnvoyTells(t *testing.T) {
	a, x := start(t)
	q := question(t)
	q.By.MaxBodyBytes, q.Body, q.Partial = 4, []byte("secr"), true
	if v, err := x.Check(t.Context(), q); err != nil || !v.Allowed {
		t.Fatal(v, err)
	}
	got := a.lastAsked()
	h := got.GetRequest().GetHttp()
	wantHeaders := map[string]string{":method": "POST", ":path": "/a?b=c", ":authority": "web.shop", ":scheme": "http",
		"x-one": "1", "x-two": "a,b", "x-raw": "caf!", "x-request-id": "r1", partialBody: "true"}
	if !reflect.DeepEqual(h.GetHeaders(), wantHeaders) {
		t.Errorf("headers = %v", h.GetHeaders())
	}
	if h.GetMethod() != "POST" || h.GetPath() != "/a?b=c" || h.GetQuery() != "b=c" || h.GetHost() != "web.shop" || h.GetSize() != 6 ||
		h.GetProtocol() != "HTTP/1.1" || h.GetBody() != "secr" || h.GetId() != "r1" {
		t.Errorf("request = %v", h)
	}
	if s := got.GetSource(); s.GetPrincipal() != "spiffe://mesh/ns/shop/sa/web" || s.GetAddress().GetSocketAddress().GetAddress() != "10.0.0.1" ||
		s.GetAddress().GetSocketAddress().GetPortValue() != 4711 || !strings.HasPrefix(s.GetCertificate(), "-----BEGIN%20CERTIFICATE") {
		t.Errorf("source = %v", s)
	}
	if d := got.GetDestination(); d.GetPrincipal() != "" || d.GetAddress().GetSocketAddress().GetPortValue() != 80 {
		t.Errorf("destination = %v", d)
	}
}

func TestBodiesAreSentOnlyAsFarAsAsked(t *testing.T) {
	a, x := start(t)
	for _, tt := range []struct {
		most       uint32
		body       string
		partial    bool
		sent, more string
	}{{0, "", false, "", ""}, {3, "abc", false, "abc", "false"}, {2, "ab", true, "ab", "true"}, {5, "", false, "", "false"}, {5, "\xff\x00", false, "\xff\x00", "false"}} {
		q := question(t)
		q.By.MaxBodyBytes, q.Body, q.Partial = tt.most, []byte(tt.body), tt.partial
		if _, err := x.Check(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		h := a.lastAsked().GetRequest().GetHttp()
		if sent := h.GetBody() + string(h.GetRawBody()); sent != tt.sent || h.GetHeaders()[partialBody] != tt.more {
			t.Errorf("at most %d of %q: sent %q, partial %q", tt.most, tt.body, sent, h.GetHeaders()[partialBody])
		}
	}
}

func TestAYesChangesTheRequest(t *testing.T) {
	a, x := start(t)
	with := func(o *corev3.HeaderValueOption, change func(*corev3.HeaderValueOption)) *corev3.HeaderValueOption {
		change(o)
		return o
	}
	action := func(how corev3.HeaderValueOption_HeaderAppendAction) func(*corev3.HeaderValueOption) {
		return func(o *corev3.HeaderValueOption) { o.AppendAction = how }
	}
	a.says(ok(&authv3.OkHttpResponse{
		Headers: []*corev3.HeaderValueOption{
			headerOf("x-user", "ann"),
			headerOf("x-one", "theirs"),
			headerOf("x-empty", ""),
			with(headerOf("x-two", "c"), func(o *corev3.HeaderValueOption) {
				o.Append = wrapperspb.Bool(true) //lint:ignore SA1019 authorizers still say it this way
			}),
			with(headerOf("x-absent", "new"), action(corev3.HeaderValueOption_ADD_IF_ABSENT)),
			with(headerOf("x-raw", "ignored"), action(corev3.HeaderValueOption_ADD_IF_ABSENT)),
			with(headerOf("x-nowhere", "ignored"), action(corev3.HeaderValueOption_OVERWRITE_IF_EXISTS)),
		},
		HeadersToRemove:         []string{"Authorization"},
		QueryParametersToSet:    []*corev3.QueryParameter{{Key: "b", Value: "new &"}, {Key: "d", Value: "e"}},
		QueryParametersToRemove: []string{"f f"},
		ResponseHeadersToAdd:    []*corev3.HeaderValueOption{headerOf("x-answer", "yes")},
	}))
	q := question(t)
	q.Request.Header.Set("Authorization", "Bearer x")
	q.Request.Header.Set("X-Empty", "forged")
	q.Request.URL.RawQuery = "a=1&b=c&f%20f=g&b=z&bad=%zz"
	v, err := x.Check(t.Context(), q)
	if err != nil || !v.Allowed || v.Query == nil {
		t.Fatal(v, err)
	}
	v.Change.Apply(q.Request.Header)
	want := http.Header{"X-One": {"theirs"}, "X-Two": {"a", "b", "c"}, "X-Raw": {"caf\xe9"}, "X-User": {"ann"}, "X-Absent": {"new"},
		"X-Envoy-Auth-Partial-Body": {"forged"}, "X-Request-Id": {"r1"}}
	if !reflect.DeepEqual(q.Request.Header, want) {
		t.Errorf("header = %q\nwant %q", q.Request.Header, want)
	}
	if got := *v.Query; got != "a=1&bad=%zz&b=new+%26&d=e" {
		t.Errorf("query = %q", got)
	}
	if v.AnswerHeader.Get("x-answer") != "yes" {
		t.Errorf("answer's header = %v", v.AnswerHeader)
	}
}

func TestANoIsPassedOn(t *testing.T) {
	a, x := start(t)
	a.says(denied(&authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode_Found}, Body: "log in",
		Headers: []*corev3.HeaderValueOption{headerOf("location", "https://login.example")},
	}))
	v, err := x.Check(t.Context(), question(t))
	if err != nil || v.Allowed || v.Status != 302 || v.Header.Get("Location") != "https://login.example" || v.Body != "log in" {
		t.Errorf("%+v, %v", v, err)
	}
	for _, r := range []*authv3.CheckResponse{denied(nil), denied(&authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 100}})} {
		a.says(r)
		if v, err := x.Check(t.Context(), question(t)); err != nil || v.Allowed || v.Status != 403 {
			t.Errorf("%+v, %v", v, err)
		}
	}
	// A refusal counts, whatever else the answer has.
	both := ok(&authv3.OkHttpResponse{})
	both.Status.Code = int32(codes.Unauthenticated)
	a.says(both)
	if v, err := x.Check(t.Context(), question(t)); err != nil || v.Allowed {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestWhatIsNoAnswerIsARefusal(t *testing.T) {
	a, x := start(t)
	set := func(h ...*corev3.HeaderValueOption) *authv3.CheckResponse {
		return ok(&authv3.OkHttpResponse{Headers: h})
	}
	both := denied(&authv3.DeniedHttpResponse{})
	both.Status.Code = 0
	many := make([]*corev3.HeaderValueOption, maxMutations+1)
	for i := range many {
		many[i] = headerOf("x", "y")
	}
	for why, r := range map[string]*authv3.CheckResponse{
		"no status": {}, "at once": both, "no header": set(headerOf(":path", "/admin")), "frames": set(headerOf("Host", "x")),
		"Content-Length": ok(&authv3.OkHttpResponse{HeadersToRemove: []string{"content-length"}}), "control character": set(headerOf("x", "a\r\nb: c")),
		"257 things": set(many...),
	} {
		a.says(r)
		if v, err := x.Check(t.Context(), question(t)); !errors.Is(err, ErrUnanswered) || v.Allowed || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %+v, %v", why, v, err)
		}
	}
	a.mu.Lock()
	a.answer = func(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a.mu.Unlock()
	slow := question(t)
	slow.By.Timeout = 50 * time.Millisecond
	if _, err := x.Check(t.Context(), slow); !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), "Deadline") {
		t.Errorf("too slow: %v", err)
	}
	for why, who := range map[string]policy.ExternalAuthorizer{
		"no such service": {Broken: "no such service"}, "asked for auth/gone:1": {Service: "auth/gone", Port: 1, Timeout: time.Second},
	} {
		q := question(t)
		q.By = who
		if _, err := x.Check(t.Context(), q); !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
	big := question(t)
	big.Request.Header.Set("X-Big", strings.Repeat("a", maxHeaderBytes))
	if _, err := x.Check(t.Context(), big); !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), "too large") {
		t.Errorf("too large: %v", err)
	}
}

func TestConnectionsAreKeptAndBounded(t *testing.T) {
	a, x := start(t)
	for range 3 {
		if _, err := x.Check(t.Context(), question(t)); err != nil {
			t.Fatal(err)
		}
	}
	if len(x.conns) != 1 {
		t.Errorf("%d connections to one authorizer", len(x.conns))
	}
	for i := range maxClients + 5 {
		if _, err := x.client(endpoint{fmt.Sprint("auth/", i), 1}); err != nil {
			t.Fatal(err)
		}
	}
	if len(x.conns) != maxClients {
		t.Errorf("%d connections, want %d", len(x.conns), maxClients)
	}
	if _, err := x.Check(t.Context(), question(t)); err != nil || len(a.asked) != 4 {
		t.Errorf("after its connection gave way: %v", err)
	}
	x.Close()
	if _, err := x.Check(t.Context(), question(t)); !errors.Is(err, ErrUnanswered) {
		t.Errorf("after Close: %v", err)
	}
}

// FuzzRead: whatever an authorizer answers, it is a verdict that can be applied or an error.
func FuzzRead(f *testing.F) {
	f.Add("x-user", "ann", "b", int32(0), 302)
	f.Add(":path", "\r\n", "&", int32(7), -1)
	f.Fuzz(func(t *testing.T, name, value, query string, code int32, status int) {
		r := &authv3.CheckResponse{Status: &rpcstatus.Status{Code: code}}
		if code == 0 {
			r = ok(&authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{headerOf(name, value)}, HeadersToRemove: []string{name},
				QueryParametersToSet: []*corev3.QueryParameter{{Key: query, Value: value}}, QueryParametersToRemove: []string{name}})
		} else {
			r = denied(&authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(status)}, Headers: []*corev3.HeaderValueOption{headerOf(name, value)}})
		}
		in := httptest.NewRequest("GET", "http://a/?"+"x=y", nil)
		v, err := read(r, in)
		if err != nil {
			return
		}
		if v.Allowed != (code == 0) || !v.Allowed && (v.Status < 200 || v.Status > 599) {
			t.Fatalf("%+v", v)
		}
		if v.Query != nil && strings.ContainsAny(*v.Query, " #\r\n") {
			t.Fatalf("query %q", *v.Query)
		}
	})
}
