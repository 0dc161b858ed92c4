package manifest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/policy"
)

// maxMatches bounds every list of a rule, and maxRules a policy's rules: each is tried for every connection.
const (
	maxRules   = 512
	maxMatches = 1024
	maxString  = 512

	maxConditions = 64
)

func checkSelector(d *decoder, sel *v1alpha1.WorkloadSelector) error {
	if sel == nil {
		return nil
	}
	for _, k := range slices.Sorted(maps.Keys(sel.MatchLabels)) {
		if k == "" || strings.Contains(k, "*") || strings.Contains(sel.MatchLabels[k], "*") {
			return d.at("spec.selector.matchLabels."+k, "labels match exactly: wildcards are not supported")
		}
	}
	return nil
}

func checkAuthorizationPolicy(d *decoder, spec *v1alpha1.AuthorizationPolicySpec) error {
	switch spec.Action {
	case "", v1alpha1.ActionAllow, v1alpha1.ActionDeny, v1alpha1.ActionAudit, v1alpha1.ActionCustom:
	default:
		return d.at("spec.action", "want ALLOW, DENY, AUDIT or CUSTOM, got %q", spec.Action)
	}
	if err := checkSelector(d, spec.Selector); err != nil {
		return err
	}
	if err := checkPolicyTargets(d, spec.Selector != nil, spec.TargetRefs); err != nil {
		return err
	}
	if err := checkExternal(d, spec); err != nil {
		return err
	}
	if len(spec.Rules) > maxRules {
		return d.at("spec.rules", "more than %d rules", maxRules)
	}
	for i := range spec.Rules {
		if err := checkRule(d, "spec.rules["+strconv.Itoa(i)+"]", &spec.Rules[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkRule refuses empty lists and empty sources, as Istio does: one reader takes them for "nothing", another for
// "everything".
func checkRule(d *decoder, path string, rule *v1alpha1.Rule) error {
	if rule.From != nil && len(rule.From) == 0 {
		return d.at(path+".from", "is empty: leave the field out to match every source")
	}
	if rule.To != nil && len(rule.To) == 0 {
		return d.at(path+".to", "is empty: leave the field out to match everything")
	}
	if len(rule.From) > maxMatches || len(rule.To) > maxMatches {
		return d.at(path, "more than %d entries", maxMatches)
	}
	if rule.When != nil && len(rule.When) == 0 || len(rule.When) > maxConditions {
		return d.at(path+".when", "want 1 to %d conditions, got %d: leave the field out for none", maxConditions, len(rule.When))
	}
	for i := range rule.When {
		if err := checkCondition(d, fmt.Sprintf("%s.when[%d]", path, i), &rule.When[i]); err != nil {
			return err
		}
	}
	for i, from := range rule.From {
		if err := checkSource(d, fmt.Sprintf("%s.from[%d].source", path, i), from.Source); err != nil {
			return err
		}
	}
	for i, to := range rule.To {
		if err := checkOperation(d, fmt.Sprintf("%s.to[%d].operation", path, i), to.Operation); err != nil {
			return err
		}
	}
	return nil
}

func checkSource(d *decoder, path string, src *v1alpha1.Source) error {
	if src == nil {
		return d.at(path, "is missing")
	}
	lists := []list{
		{"principals", src.Principals, checkPrincipal}, {"notPrincipals", src.NotPrincipals, checkPrincipal},
		{"namespaces", src.Namespaces, checkPattern}, {"notNamespaces", src.NotNamespaces, checkPattern},
		{"serviceAccounts", src.ServiceAccounts, checkServiceAccount}, {"notServiceAccounts", src.NotServiceAccounts, checkServiceAccount},
		{"ipBlocks", src.IPBlocks, checkIPBlock}, {"notIpBlocks", src.NotIPBlocks, checkIPBlock},
		{"requestPrincipals", src.RequestPrincipals, bounded(policy.CheckText)},
		{"notRequestPrincipals", src.NotRequestPrincipals, bounded(policy.CheckText)},
	}
	total, err := checkLists(d, path, lists)
	if err == nil && total == 0 {
		err = d.at(path, "is empty: leave `from` out to match every source")
	}
	return err
}

// list is one field with patterns.
type list struct {
	name   string
	values []string
	check  func(string) error
}

// checkLists checks every value of every list, and returns how many there are.
func checkLists(d *decoder, path string, lists []list) (int, error) {
	total := 0
	for _, l := range lists {
		if l.values != nil && len(l.values) == 0 || len(l.values) > maxMatches {
			return 0, d.at(path+"."+l.name, "want 1 to %d entries, got %d", maxMatches, len(l.values))
		}
		total += len(l.values)
		for i, v := range l.values {
			if err := l.check(v); err != nil {
				return 0, d.at(fmt.Sprintf("%s.%s[%d]", path, l.name, i), "%v", err)
			}
		}
	}
	return total, nil
}

func checkOperation(d *decoder, path string, op *v1alpha1.Operation) error {
	if op == nil {
		return d.at(path, "is missing")
	}
	total, err := checkLists(d, path, []list{
		{"hosts", op.Hosts, bounded(policy.CheckHost)}, {"notHosts", op.NotHosts, bounded(policy.CheckHost)},
		{"methods", op.Methods, bounded(policy.CheckMethod)}, {"notMethods", op.NotMethods, bounded(policy.CheckMethod)},
		{"paths", op.Paths, bounded(policy.CheckPath)}, {"notPaths", op.NotPaths, bounded(policy.CheckPath)},
	})
	if err != nil {
		return err
	}
	if total+len(op.Ports)+len(op.NotPorts) == 0 {
		return d.at(path, "is empty: leave `to` out to match everything")
	}
	if len(op.Ports)+len(op.NotPorts) > maxMatches {
		return d.at(path, "more than %d ports", maxMatches)
	}
	for i, p := range op.Ports {
		if _, err := p.Number(); err != nil {
			return d.at(fmt.Sprintf("%s.ports[%d]", path, i), "%v", err)
		}
	}
	for i, p := range op.NotPorts {
		if _, err := p.Number(); err != nil {
			return d.at(fmt.Sprintf("%s.notPorts[%d]", path, i), "%v", err)
		}
	}
	return nil
}

// checkPattern accepts an exact string, "prefix*", "*suffix" and "*".
func checkPattern(s string) error {
	inner := strings.TrimPrefix(s, "*")
	if inner == s {
		inner = strings.TrimSuffix(s, "*")
	}
	switch {
	case s == "" || len(s) > maxString:
		return fmt.Errorf("want 1 to %d characters", maxString)
	case strings.Contains(inner, "*"):
		return fmt.Errorf("want an exact string, \"prefix*\", \"*suffix\" or \"*\", got %q", s)
	case strings.ContainsAny(s, "\x00\n\r\t "):
		return fmt.Errorf("has white space: %q", s)
	}
	return nil
}

func checkPrincipal(s string) error {
	if strings.HasPrefix(s, "spiffe://") {
		return fmt.Errorf("a principal has no scheme: write %q", strings.TrimPrefix(s, "spiffe://"))
	}
	return checkPattern(s)
}

func checkServiceAccount(s string) error {
	ns, sa, ok := strings.Cut(s, "/")
	if !ok {
		ns, sa = "default", s
	}
	if !isSubdomain(ns) || strings.Contains(ns, ".") || !isSubdomain(sa) {
		return fmt.Errorf("want \"<namespace>/<service account>\" or a service account of the policy's namespace, got %q", s)
	}
	return nil
}

func checkIPBlock(s string) error {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return nil
	}
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		return nil
	}
	return fmt.Errorf("want an address or a CIDR, got %q", s)
}

func checkPeerAuthentication(d *decoder, spec *v1alpha1.PeerAuthenticationSpec) error {
	if err := checkSelector(d, spec.Selector); err != nil {
		return err
	}
	if spec.MTLS != nil {
		if err := checkMode(d, "spec.mtls.mode", spec.MTLS.Mode); err != nil {
			return err
		}
	}
	if len(spec.PortLevelMTLS) > 0 && (spec.Selector == nil || len(spec.Selector.MatchLabels) == 0) {
		return d.at("spec.portLevelMtls", "needs a selector: ports belong to workloads")
	}
	for _, port := range slices.Sorted(maps.Keys(spec.PortLevelMTLS)) {
		path := "spec.portLevelMtls." + port
		if _, err := v1alpha1.Port(port).Number(); err != nil {
			return d.at(path, "%v", err)
		}
		if err := checkMode(d, path+".mode", spec.PortLevelMTLS[port].Mode); err != nil {
			return err
		}
	}
	return nil
}

func checkMode(d *decoder, path, mode string) error {
	switch mode {
	case "", v1alpha1.ModeUnset, v1alpha1.ModePermissive, v1alpha1.ModeStrict:
		return nil
	case "DISABLE":
		return d.at(path, "DISABLE is not offered: a workload leaves the mesh by the pod label %s: %s", LabelMesh, MeshDisabled)
	}
	return d.at(path, "want STRICT, PERMISSIVE or UNSET, got %q", mode)
}
