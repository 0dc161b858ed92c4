package conformance

import (
	"context"
	_ "embed"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

const (
	waypoint     = "waypoint"
	class        = "warren-waypoint"
	useWaypoint  = "warren.dev/use-waypoint"
	inMesh       = "warren.dev/mesh"
	waypointUp   = 3 * time.Minute
	pollInterval = time.Second
)

// TestConformance runs the suite against the cluster of KUBECONFIG. It is told what it runs against by hack/conformance.sh,
// in WARREN_CONFORMANCE_VERSION: without that there is no cluster, and nothing to run.
func TestConformance(t *testing.T) {
	version := os.Getenv("WARREN_CONFORMANCE_VERSION")
	if version == "" {
		t.Skip("WARREN_CONFORMANCE_VERSION is not set: make conformance brings up a cluster, and runs this on it")
	}
	opts := options(t, version)
	if opts.RunTest != "" {
		opts.ReportOutputPath = "" // a report of one test would be no report
	}
	conformance.RunConformanceWithOptions(t, opts)
}

// options are those of the suite against the cluster of KUBECONFIG, where each of the suite's namespaces gets a waypoint.
func options(t *testing.T, version string) suite.ConformanceOptions {
	t.Helper()
	opts := conformance.DefaultOptions(t)
	opts.NamespaceLabels = map[string]string{inMesh: "enabled", useWaypoint: waypoint}
	if os.Getenv("WARREN_CONFORMANCE_WAYPOINTS") == "none" {
		opts.NamespaceLabels[useWaypoint] = "none"
	} else {
		for _, namespace := range []string{suite.MeshNamespace, suite.MeshConsumerNamespace} {
			makeWaypoint(t, opts.Client, namespace, opts.NamespaceLabels)
		}
	}
	opts.ConformanceProfiles = []suite.ConformanceProfileName{suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName}
	opts.SupportedFeatures = On()
	opts.CleanupBaseResources = false
	opts.Implementation = confv1.Implementation{
		Organization: "warren-mesh", Project: "warren", URL: "https://github.com/warren-mesh/warren", Version: version,
		Contact: []string{"https://github.com/warren-mesh/warren/issues"},
	}
	return opts
}

// makeWaypoint gives a namespace of the suite a waypoint before the suite makes the namespace itself, and waits until the
// waypoint says that it is programmed.
func makeWaypoint(t *testing.T, c client.Client, namespace string, labels map[string]string) {
	t.Helper()
	ctx := t.Context()
	create(t, c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: labels}})
	gateway := &gatewayv1.Gateway{
		ObjectMeta: metav1.ObjectMeta{Name: waypoint, Namespace: namespace},
		Spec: gatewayv1.GatewaySpec{
			GatewayClassName: class,
			Listeners:        []gatewayv1.Listener{{Name: "mesh", Port: 15008, Protocol: "HBONE"}},
		},
	}
	create(t, c, gateway)
	err := wait.PollUntilContextTimeout(ctx, pollInterval, waypointUp, true, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKeyFromObject(gateway), gateway)
		return meta.IsStatusConditionTrue(gateway.Status.Conditions, string(gatewayv1.GatewayConditionProgrammed)), err
	})
	if err != nil {
		t.Fatalf("Gateway %s/%s is not programmed after %v: %s", namespace, waypoint, waypointUp, conditions(gateway))
	}
}

func create(t *testing.T, c client.Client, object client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), object); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("create %T %s: %v", object, object.GetName(), err)
	}
}

func conditions(g *gatewayv1.Gateway) string {
	var out []string
	for _, c := range g.Status.Conditions {
		out = append(out, c.Type+" "+string(c.Status)+" "+c.Reason+": "+c.Message)
	}
	return strings.Join(out, "; ")
}
