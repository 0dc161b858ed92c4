package main

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/controller"
	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/internal/logging"
)

// leaveCommand takes the mesh away from its pods before its own objects are deleted.
func leaveCommand() *cobra.Command {
	var k controller.Kubernetes
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "leave", Short: "Ask every agent to let its pods go, and wait until they have", Args: cobra.NoArgs,
		Long: "Every pod leaves the mesh: open connections go on, new ones are as if there were no mesh. The agents take\n" +
			"the plug-in out of the CNI chain and remove what they loaded when they stop. An uninstall runs this first.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if k.Log, err = logging.New(os.Stderr, "info", "text"); err != nil {
				return err
			}
			k.Pod = "leave"
			cluster, err := kube.Connect(k.Config)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return cluster.Leave(ctx, cmd.OutOrStdout())
		},
	}
	kubernetesFlags(cmd.Flags(), &k)
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to wait")
	return cmd
}
