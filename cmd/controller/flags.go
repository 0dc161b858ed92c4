package main

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/warren-mesh/warren/controller"
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
