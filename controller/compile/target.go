package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// defaultAskTimeout is for an authorizer whose policy does not say.
const defaultAskTimeout = time.Second

// targetNames are what a policy is attached to, as policies have it on the wire.
func targetNames(namespace string, refs []v1alpha1.PolicyTargetRef) []string {
	var out []string
	for _, ref := range refs {
		out = append(out, ref.Kind+" "+namespace+"/"+ref.Name)
	}
	return out
}

// denyTargets puts a policy that denies everything in the place of one that is left out: nobody names a policy that is
// attached to a target, so nobody would miss it.
func (c *compiler) denyTargets(out *Output, o *manifest.Object, targets []string) {
	if targets == nil {
		return
	}
	add(out, resource.Policy(&meshv1.AuthorizationPolicy{
		Namespace: o.Namespace, Name: o.Name, Action: meshv1.AuthorizationPolicy_DENY, Targets: targets, Rules: []*meshv1.Rule{{}},
	}))
}

// wireExternal resolves an authorizer. One that is not there is said to be broken: requests are refused then.
func (c *compiler) wireExternal(o *manifest.Object, x *v1alpha1.External) *meshv1.ExternalAuthorizer {
	name := objectName{cmp.Or(x.Service.Namespace, o.Namespace), x.Service.Name}
	wire := &meshv1.ExternalAuthorizer{
		Service: name.String(), Port: uint32(x.Service.Port), TimeoutMs: timeoutOf(x.Timeout, defaultAskTimeout),
		MaxBodyBytes: uint32(x.MaxBodyBytes),
	}
	svc := c.serviceNamed(name)
	switch {
	case svc == nil:
		wire.Broken = fmt.Sprintf("there is no Service %s", name)
	case !slices.ContainsFunc(svc.Spec.(*manifest.Service).Ports, func(p manifest.ServicePort) bool { return int32(p.Port) == x.Service.Port }):
		wire.Broken = fmt.Sprintf("Service %s has no port %d", name, x.Service.Port)
	}
	if wire.Broken != "" {
		c.problem(o, "spec.external.service: %s: requests that it matches are refused", wire.Broken)
	}
	return wire
}

// timeoutOf is a timeout that was checked when it was read, in milliseconds.
func timeoutOf(text string, unset time.Duration) uint32 {
	if d, err := manifest.ParseDuration(text); err == nil && d > 0 {
		unset = d
	}
	return uint32(unset.Milliseconds())
}

func (c *compiler) serviceNamed(name objectName) *manifest.Object {
	i := slices.IndexFunc(c.services, func(o *manifest.Object) bool { return o.Namespace == name.namespace && o.Name == name.name })
	if i < 0 {
		return nil
	}
	return c.services[i]
}

// judgeSelections says which waypoints enforce what is attached to targets, and where what policies say of requests is
// not enforced as it is written. It comes after waypoints are known.
func (c *compiler) judgeSelections(out *Output) {
	pods := make(map[string]*pod, len(c.pods))
	for _, p := range c.pods {
		pods[p.workload.GetUid()] = p
	}
	for _, all := range [][]Selection{out.Policies, out.Authentications} {
		for i := range all {
			if all[i].Targets != nil {
				c.judgeTargets(&all[i])
			} else {
				judgeWorkloads(&all[i], pods)
			}
		}
	}
}

func (c *compiler) judgeTargets(sel *Selection) {
	var why []string
	for _, target := range sel.Targets {
		kind, full, _ := strings.Cut(target, " ")
		namespace, name, _ := strings.Cut(full, "/")
		at := objectName{namespace, name}
		if kind == manifest.KindGateway {
			if c.gateways[at] == nil {
				why = append(why, fmt.Sprintf("there is no Gateway %s of class %s", at, manifest.GatewayClassWaypoint))
				continue
			}
			sel.Gateways = append(sel.Gateways, at.String())
			continue
		}
		switch svc := c.serviceNamed(at); {
		case svc == nil:
			why = append(why, fmt.Sprintf("there is no Service %s", at))
		case !c.hasWaypoint(svc):
			why = append(why, fmt.Sprintf("Service %s has no waypoint that could enforce it: label it, or its namespace, %s", at, manifest.LabelUseWaypoint))
		default:
			sel.Gateways = append(sel.Gateways, c.serviceWaypointName(svc))
		}
	}
	slices.Sort(sel.Gateways)
	sel.Gateways = slices.Compact(sel.Gateways)
	sel.Unenforced = strings.Join(why, "; ")
}

// judgeWorkloads looks for the waypoints of workloads, and for workloads that are reached without one: nobody reads their
// requests.
func judgeWorkloads(sel *Selection, pods map[string]*pod) {
	var bare []string
	for _, uid := range sel.UIDs {
		p := pods[uid]
		if p == nil || p.workload.GetGateway() != "" {
			continue
		}
		for _, account := range p.workload.GetThrough() {
			if !strings.HasSuffix(account, "?") { // else nobody reaches it
				sel.Gateways = append(sel.Gateways, account)
			}
		}
		if sel.asksRequests && len(p.workload.GetThrough()) == 0 {
			bare = append(bare, p.object.Namespace+"/"+p.object.Name)
		}
	}
	slices.Sort(sel.Gateways)
	sel.Gateways = slices.Compact(sel.Gateways)
	if len(bare) == 0 {
		return
	}
	slices.Sort(bare)
	sel.Unenforced = fmt.Sprintf("%d of %d workloads that it selects are reached without a waypoint, %s first, where nobody "+
		"reads requests: %s", len(bare), len(sel.UIDs), bare[0], closedText(sel.Action))
}

// closedText says what becomes of a policy about requests where nobody reads them.
func closedText(action string) string {
	switch action {
	case v1alpha1.ActionAllow:
		return "a rule that asks about requests allows nothing there"
	case actionJWT:
		return "no token is looked at there"
	case v1alpha1.ActionCustom:
		return "every connection that a rule's other fields match is refused there"
	}
	return "a rule there matches every connection that its other fields match"
}
