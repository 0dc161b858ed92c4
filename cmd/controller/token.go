package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/controller"
)

// tokenCommand makes join tokens in the state directory's file, which a running controller reads at every use.
func tokenCommand() *cobra.Command {
	token := &cobra.Command{Use: "token", Short: "Join tokens: each lets one node, or one waypoint's pod, into the mesh, once"}
	var node, waypoint, stateDir string
	var ttl time.Duration
	create := &cobra.Command{
		Use: "create", Short: "Print a new join token for a node or a waypoint's pod", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(stateDir, 0o700); err != nil {
				return fmt.Errorf("make join token: %w", err)
			}
			tokens, err := attest.OpenTokens(controller.TokenFile(stateDir), nil)
			if err != nil {
				return err
			}
			create, who := tokens.Create, node
			if waypoint != "" {
				create, who = tokens.CreateWaypoint, waypoint
			}
			text, err := create(who, ttl)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	f := create.Flags()
	f.StringVar(&node, "node", "", "name of the node")
	f.StringVar(&stateDir, "state-dir", "/var/lib/warren/controller", "the controller's state directory")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long the token may wait to be used, at most 168h")
	f.StringVar(&waypoint, "waypoint", "", "namespace/name of the waypoint's pod")
	create.MarkFlagsMutuallyExclusive("node", "waypoint")
	create.MarkFlagsOneRequired("node", "waypoint")
	token.AddCommand(create)
	return token
}
