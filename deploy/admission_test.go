package deploy_test

import (
	"testing"

	"github.com/google/cel-go/cel"
)

// meta is an object with one label and one annotation, each left out if empty.
func meta(label, annotation string) map[string]any {
	m := map[string]any{"name": "shop"}
	if label != "" {
		m["labels"] = map[string]any{"warren.dev/mesh": label, "a": "b"}
	}
	if annotation != "" {
		m["annotations"] = map[string]any{"warren.dev/agent-absent": annotation, "a": "b"}
	}
	return map[string]any{"metadata": m}
}

// evaluate runs one expression as the API server does, and fails the test if it is no answer.
func evaluate(t *testing.T, expression string, object, old any) any {
	t.Helper()
	env, err := cel.NewEnv(cel.Variable("object", cel.DynType), cel.Variable("oldObject", cel.DynType))
	if err != nil {
		t.Fatal(err)
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		t.Fatalf("%s: %v", expression, issues.Err())
	}
	program, err := env.Program(ast)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := program.Eval(map[string]any{"object": object, "oldObject": old})
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return out.Value()
}

// admits runs a ValidatingAdmissionPolicy of the chart; failurePolicy is Fail, so an expression that fails fails the test.
func admits(t *testing.T, policy map[string]any, object, old any) bool {
	t.Helper()
	for _, c := range at(t, policy, "spec", "matchConditions").([]any) {
		if evaluate(t, c.(map[string]any)["expression"].(string), object, old) != true {
			return true
		}
	}
	for _, v := range at(t, policy, "spec", "validations").([]any) {
		v := v.(map[string]any)
		if evaluate(t, v["expression"].(string), object, old) == true {
			continue
		}
		if text, ok := v["messageExpression"].(string); ok {
			if said, _ := evaluate(t, text, object, old).(string); said == "" {
				t.Error("the refusal has no message")
			}
		}
		return false
	}
	return true
}

// TestAdmission: a wrong value is refused when it is written; what is wrong already does not stand in the way.
func TestAdmission(t *testing.T) {
	all := objects(t, render(t, ""))
	home := meta("enabled", "")
	home["metadata"].(map[string]any)["name"] = "warren-system"
	podAtHome := meta("enabled", "")
	podAtHome["metadata"].(map[string]any)["namespace"] = "warren-system"
	podElsewhere := meta("enabled", "")
	podElsewhere["metadata"].(map[string]any)["namespace"] = "shop"
	for _, c := range []struct {
		what, policy string
		object, old  any
		want         bool
	}{
		{"enabled", "warren-mesh-label", meta("enabled", ""), nil, true},
		{"disabled instead", "warren-mesh-label", meta("disabled", ""), meta("enabled", ""), true},
		{"another word", "warren-mesh-label", meta("true", ""), nil, false},
		{"another word now", "warren-mesh-label", meta("true", ""), meta("enabled", ""), false},
		{"another word since long", "warren-mesh-label", meta("true", "x"), meta("true", ""), true},
		{"the label goes", "warren-mesh-label", meta("", ""), meta("enabled", ""), true},
		{"the label comes", "warren-mesh-label", meta("enabled", ""), meta("", ""), true},
		{"Warren's own namespace", "warren-mesh-label", home, nil, false},
		{"a pod of Warren's own namespace", "warren-mesh-label", podAtHome, nil, false},
		{"a pod elsewhere", "warren-mesh-label", podElsewhere, nil, true},
		{"open", "warren-agent-absent", meta("", "open"), nil, true},
		{"ajar", "warren-agent-absent", meta("", "ajar"), meta("", "open"), false},
		{"ajar since long", "warren-agent-absent", meta("enabled", "ajar"), meta("", "ajar"), true},
		{"no annotation", "warren-agent-absent", meta("", ""), meta("", "open"), true},
	} {
		t.Run(c.what, func(t *testing.T) {
			if got := admits(t, all["ValidatingAdmissionPolicy/"+c.policy], c.object, c.old); got != c.want {
				t.Errorf("admitted is %v", got)
			}
		})
	}
}
