// The agent runs on every node: it captures the connections of enrolled pods and carries them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/agent"
	"github.com/warren-mesh/warren/internal/logging"
	"github.com/warren-mesh/warren/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cfg := agent.Config{Version: version.String()}
	var level, format string
	cmd := &cobra.Command{
		Use: "agent", Short: "Capture and carry the connections of one node's pods", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: cfg.Version,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Log, err = logging.New(os.Stderr, level, format); err != nil {
				return err
			}
			a, err := agent.New(cfg)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Node, "node", "", "name of this node")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "SPIFFE trust domain")
	f.StringVar(&cfg.Controller, "controller", "", "controller's gRPC address, host:port")
	f.StringVar(&cfg.TrustBundle, "trust-bundle", "", "PEM file of the roots that vouch for the controller")
	f.StringVar(&cfg.JoinTokenFile, "join-token-file", "", "file with what proves this node's name, once: a join token or a projected service-account token")
	f.StringVar(&cfg.StateDir, "state-dir", "/run/warren/agent", "where the last good state and SVIDs are kept (a tmpfs)")
	f.StringVar(&cfg.Socket, "socket", "/run/warren/agent.sock", "unix socket of the admin API")
	f.StringVar(&cfg.PinDir, "pin-dir", "/sys/fs/bpf/warren", "directory on a bpffs for programs and maps")
	f.StringVar(&cfg.CgroupRoot, "cgroup-root", "", "cgroup v2 hierarchy, or the directory with it as unified (default: found)")
	f.StringVar(&cfg.ProcDir, "proc-dir", "", "the node's /proc: looks for pods that run already (default: only announced pods)")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", "127.0.0.1:15020", "address of /metrics, /healthz and /readyz")
	f.BoolVar(&cfg.EncryptSameNode, "encrypt-same-node", false, "tunnel between pods of this node too")
	f.DurationVar(&cfg.DrainTimeout, "drain-timeout", 5*time.Second, "how long open connections may go on at a stop")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json")
	for _, required := range []string{"node", "controller", "trust-bundle"} {
		_ = cmd.MarkFlagRequired(required) // fails only for a flag that is not there
	}
	return cmd
}
