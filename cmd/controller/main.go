// The controller tells every node's agent what the mesh looks like, and signs identities.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/controller"
	"github.com/warren-mesh/warren/internal/logging"
	"github.com/warren-mesh/warren/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "controller:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cfg := controller.Config{Version: version.String()}
	var k controller.Kubernetes
	var level, format, profiles string
	var inCluster bool
	cmd := &cobra.Command{
		Use: "controller", Short: "Tell every node's agent what the mesh looks like", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: cfg.Version,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Log, err = logging.New(os.Stderr, level, format); err != nil {
				return err
			}
			return profiled(profiles, func() error { return run(cmd.Context(), cfg, k, inCluster) })
		},
	}
	flags(cmd.Flags(), &cfg)
	kubernetesFlags(cmd.Flags(), &k)
	waypointFlags(cmd.Flags(), &k.Waypoints)
	cmd.Flags().BoolVar(&inCluster, "kubernetes", false, "read the mesh from the API server instead of manifests")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&format, "log-format", "text", "text or json")
	cmd.Flags().StringVar(&profiles, "profile-dir", "", "serve CPU and heap profiles on a unix socket <pid>.sock in this folder, to root (default: none)")
	cmd.AddCommand(tokenCommand(), leaveCommand())
	return cmd
}
