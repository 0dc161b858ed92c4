package manifest

import (
	"fmt"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/policy"
)

const (
	maxAskTimeout = time.Minute
	maxAskBody    = 1 << 20
)

// bounded adds to a check of a pattern that it is not too long.
func bounded(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" || len(s) > maxString {
			return fmt.Errorf("want 1 to %d characters", maxString)
		}
		if err := check(s); err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		return nil
	}
}

// checkPolicyTargets checks what a policy is attached to beside workloads.
func checkPolicyTargets(d *decoder, selects bool, refs []v1alpha1.PolicyTargetRef) error {
	if refs == nil {
		return nil
	}
	switch {
	case selects:
		return d.at("spec.targetRefs", "is beside a selector: a policy is for workloads or for targets; write two")
	case len(refs) == 0 || len(refs) > maxTargetRefs:
		return d.at("spec.targetRefs", "want 1 to %d, got %d", maxTargetRefs, len(refs))
	}
	seen := make(map[v1alpha1.PolicyTargetRef]bool)
	for i, t := range refs {
		path := fmt.Sprintf("spec.targetRefs[%d]", i)
		isGateway := t.Group == GatewayGroup && t.Kind == KindGateway
		switch {
		case !isGateway && (t.Group != "" || t.Kind != KindService):
			return d.at(path, "want a Service (group %q) or a Gateway (group %q), got kind %q of group %q", "", GatewayGroup, t.Kind, t.Group)
		case !isSubdomain(t.Name):
			return d.at(path+".name", "want an object's name, got %q", t.Name)
		case seen[t]:
			return d.at(path, "%s %s is there twice", t.Kind, t.Name)
		}
		seen[t] = true
	}
	return nil
}

func checkExternal(d *decoder, spec *v1alpha1.AuthorizationPolicySpec) error {
	x := spec.External
	custom := spec.Action == v1alpha1.ActionCustom
	switch {
	case x == nil && !custom:
		return nil
	case x == nil:
		return d.at("spec.external", "is missing: action CUSTOM needs the authorizer's service")
	case !custom:
		return d.at("spec.external", "goes with action CUSTOM only")
	case x.Service == nil:
		return d.at("spec.external.service", "is missing")
	case x.Service.Namespace != "" && (!isSubdomain(x.Service.Namespace) || strings.Contains(x.Service.Namespace, ".")):
		return d.at("spec.external.service.namespace", "want a namespace, got %q", x.Service.Namespace)
	case !isSubdomain(x.Service.Name):
		return d.at("spec.external.service.name", "want a Service's name, got %q", x.Service.Name)
	case x.Service.Port < 1 || x.Service.Port > 65535:
		return d.at("spec.external.service.port", "want a port number from 1 to 65535, got %d", x.Service.Port)
	case x.MaxBodyBytes < 0 || x.MaxBodyBytes > maxAskBody:
		return d.at("spec.external.maxBodyBytes", "want 0 to %d, got %d", maxAskBody, x.MaxBodyBytes)
	}
	return checkTimeout(d, "spec.external.timeout", x.Timeout)
}

// checkTimeout checks a length of time that need not be there.
func checkTimeout(d *decoder, path, text string) error {
	if text == "" {
		return nil
	}
	timeout, err := ParseDuration(text)
	if err == nil && (timeout <= 0 || timeout > maxAskTimeout) {
		err = fmt.Errorf("want more than 0s and at most %s, got %q", maxAskTimeout, text)
	}
	if err != nil {
		return d.at(path, "%v", err)
	}
	return nil
}

func checkCondition(d *decoder, path string, c *v1alpha1.Condition) error {
	total, err := checkLists(d, path, []list{
		{"values", c.Values, bounded(func(string) error { return nil })},
		{"notValues", c.NotValues, bounded(func(string) error { return nil })},
	})
	switch {
	case err != nil:
		return err
	case c.Key == "" || len(c.Key) > maxString:
		return d.at(path+".key", "want 1 to %d characters", maxString)
	case total == 0:
		return d.at(path, "has neither values nor notValues: fill one of them")
	}
	if err := policy.CheckCondition(policy.Condition{Key: c.Key, Values: c.Values, NotValues: c.NotValues}); err != nil {
		return d.at(path, "%v", err)
	}
	return nil
}
