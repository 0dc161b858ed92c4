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
	token := &cobra.Command{Use: "token", Short: "Join tokens: each lets one node into the mesh, once"}
	var node, stateDir string
	var ttl time.Duration
	create := &cobra.Command{
		Use: "create", Short: "Print a new join token for a node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := os.MkdirAll(stateDir, 0o700); err != nil {
				return fmt.Errorf("make join token: %w", err)
			}
			tokens, err := attest.OpenTokens(controller.TokenFile(stateDir), nil)
			if err != nil {
				return err
			}
			text, err := tokens.Create(node, ttl)
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
	if err := create.MarkFlagRequired("node"); err != nil {
		panic(err) // the flag is three lines above
	}
	token.AddCommand(create)
	return token
}
