package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/waypoint"
)

func flags(cmd *cobra.Command, cfg *waypoint.Config) {
	f := cmd.Flags()
	f.StringVar(&cfg.Gateway, "gateway", "", "the Gateway that this is a replica of, namespace/name")
	f.StringVar(&cfg.Namespace, "namespace", "", "this pod's namespace")
	f.StringVar(&cfg.Pod, "pod", "", "this pod's name")
	f.StringVar(&cfg.UID, "workload-uid", "", "this pod's uid")
	f.StringVar(&cfg.ServiceAccount, "service-account", "", "this pod's service account")
	f.StringVar(&cfg.Node, "node", "", "the node that it runs on")
	f.StringVar(&cfg.Zone, "zone", "", "the zone of that node")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain")
	f.StringVar(&cfg.Controller, "controller", "", "the controller's address, host:port")
	f.StringVar(&cfg.TrustBundle, "trust-bundle", "", "PEM file with the roots that vouch for the controller")
	f.StringVar(&cfg.ProofFile, "token-file", "", "proof of who this pod is: its projected token, or a join token")
	f.StringVar(&cfg.StateDir, "state-dir", "", "keeps SVIDs and the last good state over a restart of the process; on a tmpfs")
	f.StringVar(&cfg.Listen, "listen", ":15008", "where tunnels come in")
	f.StringVar(&cfg.HealthListen, "health-listen", ":15021", "serves /healthz and /readyz; empty serves none")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", ":15020", "serves /metrics; empty serves none")
	f.DurationVar(&cfg.LameDuck, "lame-duck", 5*time.Second, "how long, once told to stop, new connections are still taken")
	f.DurationVar(&cfg.DrainTimeout, "drain", 30*time.Second, "how long what is open may go on after that")
	f.IntVar(&cfg.MaxConns, "max-connections", 100_000, "bound of clients' open connections")
	f.BoolVar(&cfg.AccessLog, "access-log", false, "a line for every request")
	f.BoolVar(&cfg.ClientCertHeader, "client-cert-header", false, "hand the client's certificate to apps in X-Forwarded-Client-Cert")
	f.StringVar(&cfg.Tracing.Endpoint, "trace-endpoint", "", "OTLP collector: host:port or URL; empty makes no spans")
	f.StringVar(&cfg.Tracing.Protocol, "trace-protocol", "grpc", "OTLP by grpc or http")
	f.Float64Var(&cfg.Tracing.Ratio, "trace-ratio", 0.01, "ratio of the traces beginning here that are sampled, 0 to 1")
	f.BoolVar(&cfg.Tracing.Insecure, "trace-insecure", false, "no TLS to the collector, if the endpoint does not say")
	f.StringVar(&cfg.Tracing.CAFile, "trace-ca-file", "", "PEM file with the roots that vouch for the collector; empty: the system's")
	f.StringVar(&cfg.Tracing.CertFile, "trace-cert-file", "", "PEM file of the certificate that the collector is shown; read at each handshake")
	f.StringVar(&cfg.Tracing.KeyFile, "trace-key-file", "", "PEM file of its key")
	f.StringToStringVar(&cfg.Tracing.Headers, "trace-header", nil, "header sent with every export, name=value (repeatable)")
	for _, name := range []string{"gateway", "namespace", "pod", "workload-uid", "service-account", "controller", "trust-bundle", "token-file"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flags are above
		}
	}
}
