package admin

import (
	"strings"
	"testing"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/manifest"
)

const requestWorld = `
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {warren.dev/mesh: enabled}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: warren-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: pay, namespace: shop, labels: {warren.dev/use-waypoint: wp}}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}], selector: {app: pay}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pay-0, namespace: shop, uid: u1, labels: {app: pay}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, uid: u2, labels: {app: web}}, spec: {nodeName: n1, serviceAccountName: web}, status: {podIP: 10.0.0.2}}
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: read, namespace: shop}
spec: {selector: {matchLabels: {app: pay}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: shop}
spec: {action: DENY, targetRefs: [{kind: Service, name: pay}], rules: [{to: [{operation: {paths: ["/secret*"]}}], when: [{key: "request.auth.claims[role]", notValues: [admin]}]}]}
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: asks, namespace: shop}
spec: {action: CUSTOM, targetRefs: [{kind: Service, name: pay}], external: {service: {name: pay, port: 80}}, rules: [{to: [{operation: {paths: [/ask]}}]}]}
`

// TestCanAnswersAboutRequests: it says what the destination's waypoint would, and of a destination without one that
// nobody reads requests.
func TestCanAnswersAboutRequests(t *testing.T) {
	objects, _, err := manifest.Parse("in.yaml", []byte(requestWorld))
	if err != nil {
		t.Fatal(err)
	}
	out, err := compile.Compile(objects, compile.Options{TrustDomain: "mesh"})
	if err != nil || len(out.Problems) > 0 {
		t.Fatal(err, out.Problems)
	}
	s := &Server{cfg: Config{Compiled: func() *compile.Output { return out }}}
	tests := []struct {
		to, method, path, claim string
		allowed                 bool
		want                    string // in rule, asks or considered
	}{
		{"shop/pay", "GET", "/", "", true, "AuthorizationPolicy shop/read rule[0]"},
		{"shop/pay", "POST", "/", "", false, "no rule matched of AuthorizationPolicy shop/read"},
		{"shop/pay", "GET", "/secret/x", "", false, "AuthorizationPolicy shop/secret rule[0]"},
		{"shop/pay", "GET", "/secret/x", "role=admin", true, "AuthorizationPolicy shop/read rule[0]"},
		{"shop/pay", "GET", "/ask", "", true, "shop/pay:80"},
		{"shop/pay", "", "", "", false, "waypoint shop/wp decides about each request"},
		{"shop/web", "GET", "/", "", true, "shop/web is reached without a waypoint"},
	}
	for _, tt := range tests {
		q := &adminv1.AuthzRequest{From: "shop/web", To: tt.to, Port: 80, Method: tt.method, Path: tt.path}
		if tt.claim != "" {
			q.Claims = []string{"iss=i", "sub=s", tt.claim}
		}
		got, err := s.Authz(t.Context(), q)
		if err != nil {
			t.Errorf("%+v: %v", tt, err)
			continue
		}
		all := strings.Join(append(append([]string{got.GetRule()}, got.GetAsks()...), got.GetConsidered()...), "\n")
		if got.GetAllowed() != tt.allowed || !strings.Contains(all, tt.want) {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
