// The agent runs on every node: it captures the connections of enrolled pods and carries them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/agent"
	"github.com/warren-mesh/warren/internal/awake"
	"github.com/warren-mesh/warren/internal/logging"
	"github.com/warren-mesh/warren/internal/profile"
	"github.com/warren-mesh/warren/internal/version"
)

func main() {
	if err := awake.Keep(); err != nil {
		fmt.Fprintln(os.Stderr, "agent: slower than it could be:", err)
	}
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
	var level, format, profiles string
	cmd := &cobra.Command{
		Use: "agent", Short: "Capture and carry the connections of one node's pods", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: cfg.Version,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Log, err = logging.New(os.Stderr, level, format); err != nil {
				return err
			}
			if err := required(cfg); err != nil {
				return err
			}
			stop, err := profile.Serve(profiles)
			if err != nil {
				return err
			}
			defer stop()
			a, err := agent.New(cfg)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	flags(cmd.PersistentFlags(), &cfg)
	cmd.Flags().StringVar(&profiles, "profile-dir", "", "serve CPU and heap profiles on a unix socket <pid>.sock in this folder, to root (default: none)")
	cmd.PersistentFlags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.PersistentFlags().StringVar(&format, "log-format", "text", "text or json")
	cmd.AddCommand(cleanupCommand(&cfg))
	return cmd
}

// cleanupCommand is for a node where no agent runs any more.
func cleanupCommand(cfg *agent.Config) *cobra.Command {
	return &cobra.Command{
		Use: "cleanup", Short: "Remove what agents left on this node: the CNI plug-in, pods' capture, state", Args: cobra.NoArgs,
		Long: "Pods that are captured still are let go: their next connection is as if there were no mesh. An uninstall does\n" +
			"this by itself; it is for a node that was away then. No agent may be running.",
		RunE: func(*cobra.Command, []string) (err error) {
			if cfg.Log, err = logging.New(os.Stderr, "info", "text"); err != nil {
				return err
			}
			return agent.Cleanup(*cfg)
		},
	}
}
