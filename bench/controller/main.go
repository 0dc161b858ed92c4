// Command controller measures the controller that is shipped, alone on a machine with its agents:
//
//	go run ./bench/controller                # a table
//	go run ./bench/controller --feeds 50     # with more agents that decode all they get
//	go run ./bench/controller --profile DIR  # where the controller's CPU and memory go
//
// The controller reads manifests, as it does in the lab: 10,000 pods on 1,000 nodes, in 50 namespaces with ten services
// and ten policies each. A thousand agents, each with its node's certificate and a connection of its own (TLS 1.3, gRPC
// over loopback), acknowledge every version. Then one thing changes at a time: a policy, a pod's readiness, a namespace's
// membership in the mesh. What counts is the time from the change, a file that is renamed into place, to the last agent's
// acknowledgement, when it was sent; and the part of it that begins when the controller has compiled the change. All
// agents are in this process, on the same machine: what they use is said beside.
//
// Most agents read an update's version only: a thousand that decode and index 10,000 workloads each would take a thousand
// machines' memory. Some are the real agent's feed, which does all that (--feeds); they count like the others.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

type options struct {
	size             size
	feeds, changes   int
	output, profiles string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "controller", Short: "Measure the controller with a thousand agents", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			r, err := measure(cmd.Context(), o, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if o.output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			return r.writeTable(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.size.pods, "pods", 10_000, "pods in all")
	f.IntVar(&o.size.nodes, "agents", 1000, "nodes, of which each has an agent")
	f.IntVar(&o.size.namespaces, "namespaces", 50, "namespaces, each with ten services and ten policies")
	f.IntVar(&o.feeds, "feeds", 8, "how many of the agents decode what they get")
	f.IntVar(&o.changes, "changes", 100, "how often each kind of change is made")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.StringVar(&o.profiles, "profile", "", "folder for the controller's CPU and heap profiles of each part")
	return cmd
}

func (o *options) check() error {
	s := o.size
	switch {
	case s.namespaces < 1 || s.namespaces > 250 || s.nodes < 1 || s.nodes > 3000:
		return fmt.Errorf("%d namespaces and %d agents: at most 250 and 3000, at least one of each", s.namespaces, s.nodes)
	case s.pods < s.namespaces*servicesEach || s.pods > 60_000:
		return fmt.Errorf("%d pods: want one for each service at least, and 60,000 at most", s.pods)
	case o.feeds < 0 || o.feeds > s.nodes || o.changes < 1:
		return fmt.Errorf("%d feeds of %d agents, %d changes", o.feeds, s.nodes, o.changes)
	case o.output != "table" && o.output != "json":
		return fmt.Errorf("output %q: want table or json", o.output)
	}
	return nil
}
