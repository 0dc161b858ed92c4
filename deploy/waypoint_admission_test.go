package deploy_test

import (
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"sigs.k8s.io/yaml"
)

// waypointDeployment is what the controller applies, as far as the policies look.
const waypointDeployment = `
metadata: {name: waypoint, namespace: shop, ownerReferences: [{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: waypoint}]}
spec:
  template:
    spec:
      serviceAccountName: waypoint
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true}
      containers:
      - image: ghcr.io/warren-mesh/warren-waypoint:v1
        securityContext: {allowPrivilegeEscalation: false, privileged: false, capabilities: {drop: [ALL]}}
      volumes:
      - {name: state, emptyDir: {}}
      - {name: roots, configMap: {name: warren-roots}}
      - name: token
        projected: {sources: [{serviceAccountToken: {audience: warren-waypoint, path: token}}]}
`

const waypointService = `
metadata: {name: waypoint, namespace: shop, ownerReferences: [{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: waypoint}]}
spec: {type: ClusterIP, ports: [{port: 15008}], selector: {gateway.networking.k8s.io/gateway-class-name: warren-waypoint}}
`

// attempt is one request to the API server.
type attempt struct {
	user, resource, namespace string
	object, old               string // YAML, "" for null
}

// denials are the policies of the chart that refuse an attempt. An expression that fails refuses: failurePolicy is Fail.
func denials(t *testing.T, all map[string]map[string]any, a attempt) (by []string) {
	t.Helper()
	for key, policy := range all {
		name, ok := strings.CutPrefix(key, "ValidatingAdmissionPolicy/warren-controller-")
		if !ok || name != "objects" && (name != a.resource || a.object == "") { // only the first is asked about deletions
			continue
		}
		e := &evaluation{t: t, vars: map[string]any{"object": fromYAML(t, a.object), "oldObject": fromYAML(t, a.old), "variables": map[string]any{},
			"request": map[string]any{"userInfo": map[string]any{"username": a.user}, "resource": map[string]any{"resource": a.resource}, "namespace": a.namespace}}}
		if e.denies(policy) {
			by = append(by, name)
		}
	}
	return by
}

type evaluation struct {
	t    *testing.T
	vars map[string]any
}

func (e *evaluation) denies(policy map[string]any) bool {
	e.t.Helper()
	spec := policy["spec"].(map[string]any)
	for _, c := range spec["matchConditions"].([]any) {
		if yes, ok := e.eval(c); ok && yes == false {
			return false
		}
	}
	variables, _ := spec["variables"].([]any)
	for _, v := range variables {
		if value, ok := e.eval(v); ok {
			e.vars["variables"].(map[string]any)[v.(map[string]any)["name"].(string)] = value
		}
	}
	for _, v := range spec["validations"].([]any) {
		if v.(map[string]any)["message"] == "" {
			e.t.Errorf("a refusal has no message: %v", v)
		}
		if yes, ok := e.eval(v); !ok || yes != true {
			return true
		}
	}
	return false
}

// eval compiles strictly and runs; ok is false if it fails at run time.
func (e *evaluation) eval(at any) (value any, ok bool) {
	e.t.Helper()
	var opts []cel.EnvOption
	for name := range e.vars {
		opts = append(opts, cel.Variable(name, cel.DynType))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		e.t.Fatal(err)
	}
	ast, issues := env.Compile(at.(map[string]any)["expression"].(string))
	if issues.Err() != nil {
		e.t.Fatalf("%v: %v", at, issues.Err())
	}
	program, err := env.Program(ast)
	if err != nil {
		e.t.Fatal(err)
	}
	out, _, err := program.Eval(e.vars)
	if err != nil {
		return nil, false
	}
	return out.Value(), true
}

func fromYAML(t *testing.T, text string) any {
	t.Helper()
	if text == "" {
		return nil
	}
	var out map[string]any
	if err := yaml.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTheControllerIsHeldToWaypoints: its rights reach into every namespace, so who has its credentials must not get
// anything else with them.
func TestTheControllerIsHeldToWaypoints(t *testing.T) {
	all := objects(t, render(t, ""))
	const user = "system:serviceaccount:warren-system:warren-controller"
	change := func(in, old, now string) string {
		t.Helper()
		if !strings.Contains(in, old) {
			t.Fatalf("there is no %q", old)
		}
		return strings.Replace(in, old, now, 1)
	}
	owned := func(name string) string {
		return "metadata: {name: " + name + ", ownerReferences: [{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, name: waypoint}]}"
	}
	d, s := waypointDeployment, waypointService
	for _, c := range []struct {
		what string
		attempt
		want bool
	}{
		{"a waypoint", attempt{user, "deployments", "shop", d, ""}, true},
		{"the same again", attempt{user, "deployments", "shop", d, d}, true},
		{"its end", attempt{user, "deployments", "shop", "", d}, true},
		{"somebody else's Deployment changed", attempt{user, "deployments", "shop", d, "metadata: {name: waypoint}"}, false},
		{"somebody else's Deployment deleted", attempt{user, "deployments", "shop", "", "metadata: {name: web}"}, false},
		{"the same by a person", attempt{"alice", "deployments", "shop", "", "metadata: {name: web}"}, true},
		{"a Deployment that belongs to nobody", attempt{user, "deployments", "shop", change(d, "kind: Gateway", "kind: Pod"), ""}, false},
		{"another name than the Gateway's", attempt{user, "deployments", "shop", change(d, "metadata: {name: waypoint", "metadata: {name: web"), ""}, false},
		{"another image", attempt{user, "deployments", "shop", change(d, "warren-waypoint:v1", "shell:v1"), ""}, false},
		{"a command", attempt{user, "deployments", "shop", change(d, "- image:", "- command: [sh]\n        image:"), ""}, false},
		{"a second container", attempt{user, "deployments", "shop", change(d, "      volumes:", "      - {image: x}\n      volumes:"), ""}, false},
		{"an init container", attempt{user, "deployments", "shop", change(d, "      volumes:", "      initContainers: [{image: x}]\n      volumes:"), ""}, false},
		{"another account", attempt{user, "deployments", "shop", change(d, "serviceAccountName: waypoint", "serviceAccountName: admin"), ""}, false},
		{"a token for the API server", attempt{user, "deployments", "shop", change(d, "automountServiceAccountToken: false", "automountServiceAccountToken: true"), ""}, false},
		{"a token for somebody else", attempt{user, "deployments", "shop", change(d, "audience: warren-waypoint", "audience: vault"), ""}, false},
		{"a token for nobody in particular", attempt{user, "deployments", "shop", change(d, "audience: warren-waypoint, ", ""), ""}, false},
		{"the host's files", attempt{user, "deployments", "shop", change(d, "configMap: {name: warren-roots}", "hostPath: {path: /}"), ""}, false},
		{"a Secret", attempt{user, "deployments", "shop", change(d, "configMap: {name: warren-roots}", "secret: {secretName: x}"), ""}, false},
		{"another ConfigMap", attempt{user, "deployments", "shop", change(d, "name: warren-roots", "name: settings"), ""}, false},
		{"the host's network", attempt{user, "deployments", "shop", change(d, "      serviceAccountName", "      hostNetwork: true\n      serviceAccountName"), ""}, false},
		{"privileges", attempt{user, "deployments", "shop", change(d, "privileged: false", "privileged: true"), ""}, false},
		{"a capability", attempt{user, "deployments", "shop", change(d, "drop: [ALL]", "add: [SYS_ADMIN]"), ""}, false},
		{"root", attempt{user, "deployments", "shop", change(d, "{runAsNonRoot: true}", "{runAsUser: 0}"), ""}, false},
		{"its service", attempt{user, "services", "shop", s, ""}, true},
		{"a service to other pods", attempt{user, "services", "shop", change(s, "gateway.networking.k8s.io/gateway-class-name: warren-waypoint}", "app: web}"), ""}, false},
		{"a load balancer", attempt{user, "services", "shop", change(s, "ClusterIP", "LoadBalancer"), ""}, false},
		{"another port", attempt{user, "services", "shop", change(s, "15008", "443"), ""}, false},
		{"the kubernetes service", attempt{user, "services", "default", "", "metadata: {name: kubernetes}"}, false},
		{"the roots", attempt{user, "configmaps", "shop", owned("warren-roots"), ""}, true},
		{"another ConfigMap of a Gateway", attempt{user, "configmaps", "kube-system", owned("coredns"), ""}, false},
		{"its own ConfigMap", attempt{user, "configmaps", "warren-system", "metadata: {name: warren-roots}", "metadata: {name: warren-roots}"}, true},
		{"an account", attempt{user, "serviceaccounts", "shop", owned("waypoint"), ""}, true},
		{"the deletion of an account", attempt{user, "serviceaccounts", "kube-system", "", "metadata: {name: coredns}"}, false},
		{"a budget", attempt{user, "poddisruptionbudgets", "shop", owned("waypoint"), owned("waypoint")}, true},
		{"the deletion of a budget", attempt{user, "poddisruptionbudgets", "shop", "", "metadata: {name: db}"}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			if by := denials(t, all, c.attempt); (len(by) == 0) != c.want {
				t.Errorf("it is denied by %q", by)
			}
		})
	}
	for key := range objects(t, render(t, "waypoint: {enabled: false}")) {
		if strings.Contains(key, "warren-controller-") {
			t.Errorf("there is a %s without waypoints", key)
		}
	}
}
