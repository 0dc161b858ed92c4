// Package waypoints runs waypoints on Kubernetes: it makes for every Gateway of class warren-waypoint the objects that run
// one, keeps them right, and writes on the Gateway what came of it.
//
//	gateway   a Gateway → what is asked for, or what is wrong with it
//	objects   what is asked for → Deployment, Service and the others, as pure functions
//	apply     these → the API server; never over an object of somebody else's
//	status    what came of it → the Gateway's conditions
//	manager   watches, and does all that again when something changes
//	remove    all of it is taken away when the mesh leaves
//
// Only the leading controller does this. What routes and policies mean is none of its business. Every object belongs to
// its Gateway, so that the API server deletes them with it.
package waypoints

import (
	"errors"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/warren-mesh/warren/controller/manifest"
)

// Names that a waypoint's objects bear and that users write.
const (
	// Class is the GatewayClass of waypoints, and ControllerName its controller.
	Class          = manifest.GatewayClassWaypoint
	ControllerName = manifest.GatewayController
	// LabelGateway and LabelClass are the Gateway API's for what was made for a Gateway.
	LabelGateway = manifest.LabelGatewayName
	LabelClass   = "gateway.networking.k8s.io/gateway-class-name"
	// LabelWaypoint is on a waypoint's pods.
	LabelWaypoint = "warren.dev/waypoint"
	// LabelFor on a Gateway says whom its waypoint may serve: all, service or workload.
	LabelFor = manifest.LabelWaypointFor
	// AnnotationReplicas on a Gateway is how many pods it gets: "3", or "2-10" to follow the load between them.
	AnnotationReplicas = "warren.dev/waypoint-replicas"
	// AnnotationTargetCPU is the share of the requested CPU, percent, at which the load is followed.
	AnnotationTargetCPU = "warren.dev/waypoint-target-cpu"
	// Roots is the ConfigMap with the roots that a waypoint begins with, and RootsKey its key.
	Roots    = "warren-roots"
	RootsKey = "bundle.pem"
	// Audience is whom a waypoint's token is for: the mesh's CA, and nobody else.
	Audience = "warren-waypoint"

	managedBy   = "app.kubernetes.io/managed-by"
	managedByUs = "warren-controller"
	partOf      = "app.kubernetes.io/part-of"
	// manager owns the fields that are applied.
	manager = "warren-controller"
)

// Ports of a waypoint's pod.
const (
	PortHBONE   = 15008
	portMetrics = 15020
	portHealth  = 15021
)

// Template is what every waypoint's pods have in common.
type Template struct {
	// Image is the whole name; if it is empty no waypoint is run.
	Image       string
	PullPolicy  corev1.PullPolicy
	PullSecrets []string
	// Replicas is how many pods a Gateway gets that does not say so.
	Replicas  int32
	Resources corev1.ResourceRequirements
	// Drain is how long requests may go on when a pod stops.
	Drain time.Duration
	// Args are further arguments of the process.
	Args []string
}

// Config says whose waypoints are run. All but Leaving and Template must be set.
type Config struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Namespace is the mesh's own; Controller is where waypoints reach its leader.
	Namespace   string
	Controller  string
	TrustDomain string
	// Roots are the roots that a waypoint begins with, PEM.
	Roots []byte
	// Leaving tells whether the mesh is being taken away: then nothing is made any more.
	Leaving  func() bool
	Template Template
	Log      *slog.Logger
}

func (c *Config) setDefaults() error {
	if c.Client == nil || c.Dynamic == nil || c.Namespace == "" || c.Controller == "" || c.TrustDomain == "" ||
		len(c.Roots) == 0 || c.Log == nil {
		return errors.New("waypoints: clients, the mesh's namespace, controller, trust domain and roots, and a log must be given")
	}
	if c.Leaving == nil {
		c.Leaving = func() bool { return false }
	}
	if c.Template.Replicas <= 0 {
		c.Template.Replicas = 2
	}
	if c.Template.Drain <= 0 {
		c.Template.Drain = 30 * time.Second
	}
	return nil
}
