// Package compile turns manifests into the mesh's resources: a pure function without clock, network or memory of
// what was before. The same objects in any order give the same resources, byte for byte.
//
// What cannot be made into a resource is left out and reported; what is left out never opens anything: a workload
// that names a policy which is not there denies.
package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
)

// Options are what manifests do not say.
type Options struct {
	TrustDomain string
	// ClusterDomain is the last part of services' names. The default is cluster.local.
	ClusterDomain string
	// RootNamespace holds the policies of the whole mesh. The default is "warren-system".
	RootNamespace string
	// Leaving is true while the mesh is being taken away: nothing is enrolled then.
	Leaving bool
}

// DefaultRootNamespace holds the policies of the whole mesh unless Options say otherwise.
const DefaultRootNamespace = "warren-system"

// Output is what the manifests come to.
type Output struct {
	// Resources by key. They and everything below must not be changed.
	Resources map[string]*meshv1.Resource
	// Encoded is each of them, marshalled deterministically.
	Encoded map[string][]byte
	// Audience says whom a resource is for, by key: Waypoints and Nodes. One that is not in it is for everybody.
	Audience map[string][]string
	// Decoded is what an agent will make of Resources, version 0.
	Decoded resource.Decoded
	// Problems are objects that were left out or changed, one line each, sorted.
	Problems []string
	// PeerAuthentications and Policies say what each selects, sorted by namespace and name.
	PeerAuthentications []Selection
	Policies            []Selection
	// Authentications are the RequestAuthentications, alike.
	Authentications []Selection
	// Routes say what became of every route that has a parent of ours, sorted by kind, namespace and name.
	Routes []RouteStatus
	// Traffic says what became of every TrafficPolicy, sorted by namespace and name.
	Traffic []TrafficStatus
	// Nodes are the names of every Node, sorted.
	Nodes []string
}

// Selection is what one policy selects.
type Selection struct {
	Namespace string
	Name      string
	// Action is ALLOW, DENY, AUDIT, CUSTOM, JWT for a RequestAuthentication, or the mode of a PeerAuthentication: STRICT, PERMISSIVE or UNSET.
	Action string
	// Scope is mesh, namespace, workload or target.
	Scope string
	// UIDs of the enrolled workloads that it selects.
	UIDs []string
	// Targets are what it is attached to instead of workloads, as AuthorizationPolicy's on the wire. Gateways are the
	// waypoints that enforce it there, "<namespace>/<name>".
	Targets  []string
	Gateways []string
	// Unenforced says in one sentence where and why what it says of requests is not enforced as it is written, "" if it
	// is everywhere.
	Unenforced string

	asksRequests bool
}

// FullName is "<namespace>/<name>".
func (s *Selection) FullName() string { return s.Namespace + "/" + s.Name }

// compiler holds what one run has sorted out so far.
type compiler struct {
	opts       Options
	namespaces map[string]*manifest.Object
	nodes      map[string]*manifest.Object
	pods       []*pod
	podsIn     map[string][]*pod // by namespace, in the order of pods
	services   []*manifest.Object
	slices     []*manifest.Object
	authz      []*manifest.Object
	peerAuth   map[string][]*manifest.Object // by namespace, each older first
	jwtAuth    []*manifest.Object
	// gateways are waypoints, by name; waypoints is what the labels of namespaces, services and pods come to.
	gateways  map[objectName]*manifest.Object
	waypoints map[*manifest.Object]waypoint
	grants    []*manifest.Object
	routes    []*manifest.Object
	traffic   []*manifest.Object
	problems  []string
	// nodePortsUsed is true if a service is answered at ports of nodes.
	nodePortsUsed bool
}

// Compile compiles objects. Returns an error only if the result is not consistent after every conflict that is known
// was resolved; the caller keeps what it had.
func Compile(objects []*manifest.Object, opts Options) (*Output, error) {
	return new(Output).Next(objects, opts)
}

// Next is Compile for who has an earlier output: the result is the same, and has in common with that what did not change,
// which is not decoded again.
func (o *Output) Next(objects []*manifest.Object, opts Options) (*Output, error) {
	opts.ClusterDomain = cmp.Or(opts.ClusterDomain, "cluster.local")
	opts.RootNamespace = cmp.Or(opts.RootNamespace, DefaultRootNamespace)
	c := &compiler{
		opts: opts, namespaces: make(map[string]*manifest.Object), nodes: make(map[string]*manifest.Object),
		gateways: make(map[objectName]*manifest.Object), waypoints: make(map[*manifest.Object]waypoint),
		podsIn: make(map[string][]*pod), peerAuth: make(map[string][]*manifest.Object),
	}
	c.sort(objects)
	c.resolveAddressConflicts()

	out := &Output{Resources: make(map[string]*meshv1.Resource)}
	out.Policies = c.addPolicies(out)
	out.PeerAuthentications = c.applyPeerAuthentications()
	out.Authentications = c.addAuthentications(out)
	for _, p := range c.pods {
		add(out, resource.Workload(p.workload))
	}
	c.addServices(out)
	c.addRoutes(out)
	c.addTraffic(out)
	c.judgeSelections(out)
	c.addSettings(out)
	out.Nodes = slices.Sorted(maps.Keys(c.nodes))
	spreadEndpoints(out.Resources)
	out.Audience = audiences(out.Resources)

	var err error
	if out.Encoded, err = encode(out.Resources, o); err == nil {
		out.Decoded, err = o.Decoded.Next("", 0, out.Resources)
	}
	if err != nil {
		return nil, fmt.Errorf("compile manifests: %w", err)
	}
	slices.Sort(c.problems)
	out.Problems = slices.Compact(c.problems)
	return out, nil
}

// Empty returns the output of no manifests.
func Empty() *Output {
	out, err := Compile(nil, Options{TrustDomain: "cluster.local"})
	if err != nil {
		panic("compile: nothing is consistent") // nothing in it can conflict
	}
	return out
}

func add(out *Output, r *meshv1.Resource) { out.Resources[r.GetKey()] = r }

// sort puts objects by kind, each older first.
func (c *compiler) sort(objects []*manifest.Object) {
	objects = slices.Clone(objects)
	slices.SortFunc(objects, older)
	var pods []*manifest.Object
	for _, o := range objects {
		switch o.Kind {
		case manifest.KindNamespace:
			c.namespaces[o.Name] = o
		case manifest.KindNode:
			c.nodes[o.Name] = o
		case manifest.KindPod:
			pods = append(pods, o)
		case manifest.KindService:
			c.services = append(c.services, o)
		case manifest.KindEndpointSlice:
			c.slices = append(c.slices, o)
		case manifest.KindAuthorizationPolicy:
			c.authz = append(c.authz, o)
		case manifest.KindPeerAuthentication:
			c.peerAuth[o.Namespace] = append(c.peerAuth[o.Namespace], o)
		case manifest.KindRequestAuthentication:
			c.jwtAuth = append(c.jwtAuth, o)
		case manifest.KindGateway:
			if o.Spec.(*manifest.GatewaySpec).GatewayClassName == manifest.GatewayClassWaypoint {
				c.gateways[objectName{o.Namespace, o.Name}] = o
			}
		case manifest.KindReferenceGrant:
			c.grants = append(c.grants, o)
		case manifest.KindHTTPRoute, manifest.KindGRPCRoute, manifest.KindTCPRoute, manifest.KindTLSRoute:
			c.routes = append(c.routes, o)
		case manifest.KindTrafficPolicy:
			c.traffic = append(c.traffic, o)
		}
	}
	for _, o := range pods {
		if p := c.newPod(o); p != nil {
			c.pods = append(c.pods, p)
		}
	}
}

// older orders by creation time, then namespace, then name. RFC 3339 times in UTC, which Kubernetes writes, sort as
// text; an object without a time is taken for the youngest, as it was not made by an API server.
func older(a, b *manifest.Object) int {
	const never = "~" // sorts after every digit
	if a.Meta.CreationTimestamp != b.Meta.CreationTimestamp {
		return cmp.Compare(cmp.Or(a.Meta.CreationTimestamp, never), cmp.Or(b.Meta.CreationTimestamp, never))
	}
	if a.Namespace != b.Namespace {
		return cmp.Compare(a.Namespace, b.Namespace)
	}
	return cmp.Compare(a.Name, b.Name)
}

func (c *compiler) problem(o *manifest.Object, format string, args ...any) {
	c.problems = append(c.problems, o.Origin.String()+": "+o.Key.String()+": "+fmt.Sprintf(format, args...))
}

// selects tells whether a selector selects a pod's labels. No selector, or an empty one, selects every pod.
func selects(sel *v1alpha1.WorkloadSelector, labels map[string]string) bool {
	return sel == nil || matches(sel.MatchLabels, labels)
}

func matches(want, labels map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func isWide(sel *v1alpha1.WorkloadSelector) bool { return sel == nil || len(sel.MatchLabels) == 0 }

// scope names how far a policy reaches.
func (c *compiler) scope(o *manifest.Object, sel *v1alpha1.WorkloadSelector) string {
	switch {
	case !isWide(sel):
		return "workload"
	case o.Namespace == c.opts.RootNamespace:
		return "mesh"
	}
	return "namespace"
}
