// The waypoint is an L7 proxy: it routes, authorizes and traces the requests to services and workloads that are given one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/internal/logging"
	"github.com/warren-mesh/warren/internal/profile"
	"github.com/warren-mesh/warren/internal/version"
	"github.com/warren-mesh/warren/waypoint"
)

func main() {
	tune()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "waypoint:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	cfg := waypoint.Config{Version: version.String()}
	var level, format, profiles string
	cmd := &cobra.Command{
		Use: "waypoint", Short: "Route, authorize and trace the requests to services that are given a waypoint", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: cfg.Version,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Log, err = logging.New(os.Stderr, level, format); err != nil {
				return err
			}
			stop, err := profile.Serve(profiles)
			if err != nil {
				return err
			}
			defer stop()
			w, err := waypoint.New(cfg)
			if err != nil {
				return err
			}
			return w.Run(cmd.Context())
		},
	}
	flags(cmd, &cfg)
	cmd.Flags().StringVar(&profiles, "profile-dir", "", "serve CPU and heap profiles on a unix socket <pid>.sock in this folder, to root (default: none)")
	cmd.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&format, "log-format", "text", "text or json")
	return cmd
}
