package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/controller"
	"github.com/warren-mesh/warren/controller/waypoints"
)

// kubernetesFlags are those of a controller in a cluster.
func kubernetesFlags(f *pflag.FlagSet, k *controller.Kubernetes) {
	f.StringVar(&k.Kubeconfig, "kubeconfig", "", "kubeconfig of the API server (default: the pod's own service account)")
	f.StringVar(&k.Namespace, "namespace", "warren-system", "the controller's own namespace; its policies are the whole mesh's")
	f.StringVar(&k.Pod, "pod-name", "", "this replica's pod")
	f.StringSliceVar(&k.PodIPs, "pod-ip", nil, "this replica's addresses, for agents")
	f.StringVar(&k.AgentServiceAccount, "agent-service-account", "warren-agent", "agents' service account, in the controller's namespace")
	f.StringVar(&k.TokenAudience, "token-audience", "warren-ca", "audience of the tokens by which agents prove their node")
}

// waypointFlags say how the controller runs waypoints in a cluster.
func waypointFlags(f *pflag.FlagSet, t *waypoints.Template) {
	f.StringVar(&t.Image, "waypoint-image", "", "image of waypoints; without one none is run")
	f.Var((*pullPolicy)(&t.PullPolicy), "waypoint-pull-policy", "when their image is pulled: Always, IfNotPresent or Never")
	f.StringSliceVar(&t.PullSecrets, "waypoint-pull-secret", nil, "Secret with which it is pulled, in the waypoint's namespace (repeatable)")
	f.Int32Var(&t.Replicas, "waypoint-replicas", 2, "pods of a waypoint whose Gateway does not say how many")
	f.Var((*resources)(&t.Resources), "waypoint-resources", `their requests and limits, as JSON such as {"requests":{"cpu":"100m"}}`)
	f.DurationVar(&t.Drain, "waypoint-drain", 30*time.Second, "how long requests may go on when a pod of a waypoint stops")
	f.StringArrayVar(&t.Args, "waypoint-arg", nil, "further argument of every waypoint (repeatable)")
}

// pullPolicy is a flag with the word of a pod's imagePullPolicy.
type pullPolicy corev1.PullPolicy

func (p *pullPolicy) String() string { return string(*p) }
func (p *pullPolicy) Type() string   { return "policy" }

// Set implements pflag.Value.
func (p *pullPolicy) Set(s string) error {
	switch corev1.PullPolicy(s) {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
		*p = pullPolicy(s)
		return nil
	}
	return fmt.Errorf("must be Always, IfNotPresent or Never, not %q", s)
}

// resources is a flag with a container's resources in JSON.
type resources corev1.ResourceRequirements

func (r *resources) String() string { return "" }
func (r *resources) Type() string   { return "json" }

// Set implements pflag.Value.
func (r *resources) Set(s string) error {
	dec := json.NewDecoder(strings.NewReader(s))
	dec.DisallowUnknownFields()
	var out corev1.ResourceRequirements
	if err := dec.Decode(&out); err != nil {
		return fmt.Errorf("must be requests and limits in JSON: %w", err)
	}
	*r = resources(out)
	return nil
}

// flags are the controller's settings, each with its default.
func flags(f *pflag.FlagSet, cfg *controller.Config) {
	f.StringArrayVar(&cfg.Manifests, "manifests", nil, "file or folder of Kubernetes manifests (repeatable)")
	f.StringArrayVar(&cfg.StatusManifests, "status-manifests", nil, "file or folder whose objects only add status (repeatable)")
	f.StringVar(&cfg.StateDir, "state-dir", "/var/lib/warren/controller", "CA key, join tokens, bundle.pem")
	f.StringVar(&cfg.Listen, "listen", ":15012", "address for agents (gRPC, mutual TLS)")
	f.StringVar(&cfg.AdminSocket, "admin-socket", "/run/warren/controller.sock", "unix socket of the admin API")
	f.StringVar(&cfg.AdminListen, "admin-listen", "", "loopback address that serves the admin API too, for port-forwards")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", "127.0.0.1:15014", "address of /metrics, /healthz and /readyz")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain")
	f.StringVar(&cfg.ClusterDomain, "cluster-domain", "cluster.local", "last part of services' names")
	f.StringVar(&cfg.CACert, "ca-cert", "", "PEM file of an existing CA (default: one is made)")
	f.StringVar(&cfg.CAKey, "ca-key", "", "PEM file of its key")
	f.StringVar(&cfg.CARoots, "ca-roots", "", "PEM file of more roots to trust")
	f.DurationVar(&cfg.WorkloadTTL, "workload-ttl", 12*time.Hour, "life of workloads' certificates")
}
