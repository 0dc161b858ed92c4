package meshview

import (
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/policy"
)

func TestRequestsAreMadeOfWords(t *testing.T) {
	if r, err := Request(&adminv1.AuthzRequest{From: "a/b"}); r != nil || err != nil {
		t.Errorf("a connection: %+v, %v", r, err)
	}
	got, err := Request(&adminv1.AuthzRequest{Path: "/a?b=c", Headers: []string{"x-a: 1", "X-A:2"},
		Claims: []string{"iss=i", "sub=s", "aud=a", "aud=b", "azp=z", "realm.roles=r1", "realm.roles=r2", "x=a=b"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &policy.Request{Method: "GET", Path: "/a", Header: map[string][]string{"X-A": {"1", "2"}}, Token: policy.Token{
		Issuer: "i", Subject: "s", Audiences: []string{"a", "b"}, Presenter: "z", Claims: map[string]any{
			"iss": "i", "sub": "s", "aud": []any{"a", "b"}, "azp": "z", "realm": map[string]any{"roles": []any{"r1", "r2"}}, "x": "a=b"},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Request = %+v\nwant %+v", got, want)
	}
	for field, q := range map[string]*adminv1.AuthzRequest{
		"path:": {Path: "a"}, "headers:": {Headers: []string{"x"}}, "claims:": {Claims: []string{"x"}}, "claims: a is": {Claims: []string{"a=1", "a.b=2"}},
		"claims: b is": {Claims: []string{"a.b.c=1", "a.b=2"}}, "more than": {Headers: make([]string, maxAsked+1)},
	} {
		if _, err := Request(q); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: err = %v", field, err)
		}
	}
}

func TestDecideIsAWaypoints(t *testing.T) {
	set, err := policy.NewSet([]*policy.Policy{
		{Namespace: "a", Name: "ask", Action: policy.Custom, Rules: []policy.Rule{{}}, Targets: []string{"Service a/s"}, External: &policy.ExternalAuthorizer{Service: "x/opa", Port: 1}},
		{Namespace: "a", Name: "allow", Action: policy.Allow, Rules: []policy.Rule{{}}, Targets: []string{"Service a/s"}},
		{Namespace: "a", Name: "get", Action: policy.Allow, Rules: []policy.Rule{{To: []policy.Operation{{Methods: []string{"GET"}}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	targets := []policy.Target{{Targets: []string{"Service a/s"}}, {Policies: []string{"a/get"}}}
	d, asks := Decide(set, targets, policy.Conn{}, &policy.Request{Method: "GET"})
	if !d.Allowed || strings.Join(asks, ",") != "x/opa:1" || !strings.Contains(d.Rule, "a/get") {
		t.Errorf("GET: %+v, asks %q", d, asks)
	}
	// What allows at the service does not make up for what does not at the workload.
	if d, _ := Decide(set, targets, policy.Conn{}, &policy.Request{Method: "PUT"}); d.Allowed {
		t.Errorf("PUT: %+v", d)
	}
}
