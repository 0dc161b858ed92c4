package main

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/warren-mesh/warren/controller"
)

// flags are the controller's settings, each with its default.
func flags(f *pflag.FlagSet, cfg *controller.Config) {
	f.StringArrayVar(&cfg.Manifests, "manifests", nil, "file or folder of Kubernetes manifests (repeatable)")
	f.StringArrayVar(&cfg.StatusManifests, "status-manifests", nil, "file or folder whose objects only add status (repeatable)")
	f.StringVar(&cfg.StateDir, "state-dir", "/var/lib/warren/controller", "CA key, join tokens, bundle.pem")
	f.StringVar(&cfg.Listen, "listen", ":15012", "address for agents (gRPC, mutual TLS)")
	f.StringVar(&cfg.AdminSocket, "admin-socket", "/run/warren/controller.sock", "unix socket of the admin API")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", "127.0.0.1:15014", "address of /metrics, /healthz and /readyz")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain")
	f.StringVar(&cfg.CACert, "ca-cert", "", "PEM file of an existing CA (default: one is made)")
	f.StringVar(&cfg.CAKey, "ca-key", "", "PEM file of its key")
	f.StringVar(&cfg.CARoots, "ca-roots", "", "PEM file of more roots to trust")
	f.DurationVar(&cfg.WorkloadTTL, "workload-ttl", 12*time.Hour, "life of workloads' certificates")
}
