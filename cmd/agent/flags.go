package main

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/warren-mesh/warren/agent"
)

// flags are the agent's settings, each with its default.
func flags(f *pflag.FlagSet, cfg *agent.Config) {
	f.StringVar(&cfg.Node, "node", "", "name of this node")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain")
	f.StringVar(&cfg.Controller, "controller", "", "controller's gRPC address, host:port")
	f.StringVar(&cfg.TrustBundle, "trust-bundle", "", "PEM file of the roots that vouch for the controller")
	f.StringVar(&cfg.JoinTokenFile, "join-token-file", "", "file with what proves this node's name: a join token or a projected service-account token")
	f.StringVar(&cfg.StateDir, "state-dir", "/run/warren/agent", "where the last good state and SVIDs are kept (a tmpfs)")
	f.StringVar(&cfg.Socket, "socket", "/run/warren/agent.sock", "unix socket of the admin API")
	f.StringVar(&cfg.PinDir, "pin-dir", "/sys/fs/bpf/warren", "directory on a bpffs for programs and maps")
	f.StringVar(&cfg.CgroupRoot, "cgroup-root", "", "cgroup v2 hierarchy, or the directory with it as unified (default: found)")
	f.StringVar(&cfg.ProcDir, "proc-dir", "", "the node's /proc: finds running pods and the kubelet (default: only announced pods)")
	f.StringSliceVar(&cfg.KubeletNames, "kubelet-names", nil, "what the kubelet's program may be called (default: the usual names)")
	f.StringVar(&cfg.CNI.ConfDir, "cni-conf-dir", "", "the node's CNI configurations: puts the plug-in into the chain (default: no chain)")
	f.StringVar(&cfg.CNI.BinDir, "cni-bin-dir", "", "the node's CNI plug-ins")
	f.StringVar(&cfg.CNI.Plugin, "cni-plugin", "/warren-cni", "the plug-in's file that comes with the agent")
	f.StringSliceVar(&cfg.CNI.ExemptNamespaces, "cni-exempt-namespaces", []string{"kube-system", "warren-system"}, "namespaces whose pods start whether or not an agent answers")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", "127.0.0.1:15020", "address of /metrics, /healthz and /readyz")
	f.BoolVar(&cfg.CarrySameNode, "carry-same-node", false, "carry every connection between pods of this node, instead of letting the kernel make those that were allowed before")
	f.BoolVar(&cfg.EncryptSameNode, "encrypt-same-node", false, "tunnel between pods of this node too")
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", 5*time.Second, "how long open connections may go on at a stop")
}

// required names the first flag that an agent cannot do without and that is not there.
func required(cfg agent.Config) error {
	for flag, value := range map[string]string{"node": cfg.Node, "controller": cfg.Controller, "trust-bundle": cfg.TrustBundle} {
		if value == "" {
			return fmt.Errorf("--%s must be given: see agent --help", flag)
		}
	}
	return nil
}
