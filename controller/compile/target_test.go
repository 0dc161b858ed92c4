package compile

import (
	"slices"
	"strings"
	"testing"

	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/policy"
)

const requestWorld = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {warren.dev/mesh: enabled}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: warren-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, uid: g, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {nodeName: n1, serviceAccountName: wp}
status: {podIP: 10.0.0.9}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {warren.dev/use-waypoint: wp}}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}], selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{port: 5432}], selector: {app: db}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: u1, labels: {app: web}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, uid: u2, labels: {app: db}}
spec: {nodeName: n1}
status: {podIP: 10.0.0.2}
---
`

func compileRequests(t *testing.T, more string) *Output {
	t.Helper()
	objects, _, err := manifest.Parse("in.yaml", []byte(requestWorld+more))
	if err != nil {
		t.Fatal(err)
	}
	out, err := Compile(objects, Options{TrustDomain: "mesh"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func authz(spec string) string {
	return "apiVersion: warren.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: " + spec + "\n---\n"
}

func TestPoliciesOnTargets(t *testing.T) {
	const admin = `rules: [{to: [{operation: {paths: [/admin]}}], when: [{key: "request.headers[x]", values: [a]}]}]`
	tests := map[string]struct {
		spec, gateways, unenforced string
		uids                       []string
	}{
		"a service with a waypoint": {`{targetRefs: [{kind: Service, name: web}], ` + admin + `}`, "shop/wp", "", nil},
		"a gateway":                 {`{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: wp}], ` + admin + `}`, "shop/wp", "", nil},
		"a service without":         {`{targetRefs: [{kind: Service, name: db}], ` + admin + `}`, "", "Service shop/db has no waypoint that could enforce it", nil},
		"no service":                {`{targetRefs: [{kind: Service, name: gone}, {kind: Service, name: web}], ` + admin + `}`, "shop/wp", "there is no Service shop/gone", nil},
		"no gateway":                {`{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gone}]}`, "", "there is no Gateway shop/gone of class warren-waypoint", nil},
		"workloads behind one":      {`{selector: {matchLabels: {app: web}}, ` + admin + `}`, "shop/wp", "", []string{"u1"}},
		"workloads without one": {`{selector: {matchLabels: {app: db}}, ` + admin + `}`, "",
			"1 of 1 workloads that it selects are reached without a waypoint, shop/db first, where nobody reads requests: a rule that asks about requests allows nothing there", []string{"u2"}},
		"DENY without one": {`{action: DENY, selector: {matchLabels: {app: db}}, ` + admin + `}`, "",
			"a rule there matches every connection that its other fields match", []string{"u2"}},
		"layer 4 without one":                     {`{selector: {matchLabels: {app: db}}, rules: [{}]}`, "", "", []string{"u2"}},
		"the waypoint's own pods are no question": {`{` + admin + `}`, "shop/wp", "1 of 3 workloads", []string{"g", "u1", "u2"}},
	}
	for name, tt := range tests {
		out := compileRequests(t, authz(tt.spec))
		sel := out.Policies[0]
		if strings.Join(sel.Gateways, ",") != tt.gateways || !strings.Contains(sel.Unenforced, tt.unenforced) || (tt.unenforced == "") != (sel.Unenforced == "") ||
			!slices.Equal(sel.UIDs, tt.uids) {
			t.Errorf("%s: %+v", name, sel)
		}
		if len(out.Problems) > 0 || !out.Decoded.Policies.Has("shop/p") {
			t.Errorf("%s: problems %q", name, out.Problems)
		}
	}
}

func TestATargetsPolicyThatIsLeftOutDenies(t *testing.T) {
	// The reader of manifests takes this principal, the compiler does not: such a policy must not be missed silently.
	out := compileRequests(t, authz(`{targetRefs: [{kind: Service, name: web}], rules: [{from: [{source: {principals: [A]}}]}]}`))
	if len(out.Problems) != 1 || !strings.Contains(out.Problems[0], "left out, and whatever it selects denies") {
		t.Errorf("problems %q", out.Problems)
	}
	d := out.Decoded.Policies.DecideRequest(policy.Target{Targets: []string{"Service shop/web"}}, policy.Conn{}, &policy.Request{Method: "GET", Path: "/"})
	if d.Allowed || d.Rule != "AuthorizationPolicy shop/p rule[0]" {
		t.Errorf("%+v", d)
	}
}

func TestAuthorizersAreResolved(t *testing.T) {
	for spec, want := range map[string]string{
		`{name: web, port: 80}`:                   "",
		`{name: web, port: 80, namespace: other}`: "there is no Service other/web",
		`{name: web, port: 81}`:                   "Service shop/web has no port 81",
	} {
		out := compileRequests(t, authz(`{action: CUSTOM, rules: [{}], external: {service: `+spec+`, timeout: 300ms, maxBodyBytes: 9}}`))
		x := out.Resources["policy/shop/p"].GetPolicy().GetExternal()
		if x.GetBroken() != want || (want != "") != (len(out.Problems) == 1) {
			t.Errorf("%s: %v, problems %q", spec, x, out.Problems)
		}
		if want == "" && (x.GetService() != "shop/web" || x.GetPort() != 80 || x.GetTimeoutMs() != 300 || x.GetMaxBodyBytes() != 9) {
			t.Errorf("%s: %v", spec, x)
		}
		d := out.Decoded.Policies.DecideRequest(policy.Target{Policies: []string{"shop/p"}}, policy.Conn{}, &policy.Request{})
		if d.Allowed || (d.Ask != nil) != (want == "") {
			t.Errorf("%s: %+v", spec, d)
		}
	}
	out := compileRequests(t, authz(`{action: CUSTOM, external: {service: {name: web, port: 80}}}`))
	if ms := out.Resources["policy/shop/p"].GetPolicy().GetExternal().GetTimeoutMs(); ms != 1000 {
		t.Errorf("timeout %d ms by default", ms)
	}
}

func TestRequestAuthentications(t *testing.T) {
	jwt := func(name, spec string) string {
		return "apiVersion: warren.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {name: " + name + ", namespace: shop}\nspec: " + spec + "\n---\n"
	}
	const rule = `jwtRules: [{issuer: "https://id", jwksUri: "https://id/keys", audiences: [shop], fromHeaders: [{name: x, prefix: "p "}], fromParams: [q],
  fromCookies: [c], forwardOriginalToken: true, outputPayloadToHeader: x-p, outputClaimToHeaders: [{header: x-s, claim: sub}], timeout: 2s}]`
	out := compileRequests(t, jwt("a", `{selector: {matchLabels: {app: web}}, `+rule+`}`)+jwt("b", `{targetRefs: [{kind: Service, name: web}], `+rule+`}`)+
		jwt("c", `{selector: {matchLabels: {app: db}}, `+rule+`}`))
	if len(out.Problems) > 0 || len(out.Authentications) != 3 {
		t.Fatalf("problems %q, %+v", out.Problems, out.Authentications)
	}
	for i, want := range []string{"", "", "no token is looked at there"} {
		if sel := out.Authentications[i]; !strings.Contains(sel.Unenforced, want) || (want == "") != (sel.Unenforced == "") || sel.Action != "JWT" {
			t.Errorf("%+v", sel)
		}
	}
	found := out.Decoded.Authentication.For([]string{"Service shop/web"}, "u1")
	if len(found) != 2 || found[0].Name != "a" || found[1].Name != "b" {
		t.Fatalf("%+v", found)
	}
	if got := out.Resources["authentication/shop/a"].String(); !strings.Contains(got, "https://id/keys") || !slices.Equal(out.Audience["authentication/shop/a"], []string{Waypoints}) {
		t.Errorf("%s for %q", got, out.Audience["authentication/shop/a"])
	}
	r := found[0].Rules[0]
	if r.Issuer != "https://id" || r.Audiences[0] != "shop" || r.FromHeaders[0].Prefix != "p " || r.FromParams[0] != "q" || r.FromCookies[0] != "c" ||
		!r.ForwardOriginalToken || r.OutputPayloadToHeader != "x-p" || r.ClaimsToHeaders[0].Claim != "sub" || r.Timeout.Seconds() != 2 {
		t.Errorf("%+v", r)
	}
}
