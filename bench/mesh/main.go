// Command mesh measures what a connection through the mesh costs, against the same connection without it and through
// others' proxies, in one run on one machine:
//
//	go run ./bench/mesh                            # the quick form, a table
//	go run ./bench/mesh --full --plots plots       # every scenario, and drawings
//	go run ./bench/mesh --only warren --scenario echo64-c16 -o json
//
// It makes a lab of two nodes from this tree's binaries. The client is on n1, the server on n1 or n2. The rows are
//
//	bare same node              client → server, outside the mesh
//	bare across nodes
//	warren same node            client → agent → server: the kernel vouches, no TLS
//	warren same node encrypted  the same with --encrypt-same-node, in a lab of its own
//	warren across nodes         client → agent n1 → agent n2 → server: HBONE, mutual TLS
//	warren waypoint             client → agent n1 → waypoint → agent n2 → server: mutual TLS twice, bytes that nobody reads
//	nginx, haproxy, envoy       client → proxy → proxy → server: a connection of mutual TLS for each of the client's
//	envoy CONNECT               the same over pooled connections with HTTP/2 streams, as HBONE has them
//	ztunnel                     Istio's, by its own configuration file, if --ztunnel names its binary
//
// Peers' proxies run in the network namespaces of client and server, where Warren's sockets are too. That a row's bytes
// went where it says is checked: before anything is measured by the kernel's count of what its tunnels received, and in
// each measurement by the CPU that every process on the path used.
//
// Clients and servers are copies of this program: one server in each pod that is connected to, one client for each
// measurement. It connects, warms up, and then waits for the word to begin, so what is counted is the steady state. A
// fixed rate counts latency from when a request was due.
//
// Every round runs all rows, each round in another order, so that what else the machine does hits all alike. Ratios are
// taken within a round. Everything shares the machine's cores, client and server too: read ratios, not figures. What could
// not be measured says why.
package main

import (
	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/bench/measure"
	"github.com/warren-mesh/warren/bench/scene"
)

func main() { scene.Main(command(), clientMain) }

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "mesh", Short: "Measure what a connection through the mesh costs, beside bare TCP and peers", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			r, err := run(cmd.Context(), o, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if err := o.write(r, cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
				return err
			}
			return o.complete(r)
		},
	}
	o.flags(cmd.Flags())
	return cmd
}

// compared are the rows that are set beside every other one.
func compared(r *measure.Report) (out []string) {
	for _, row := range r.Rows {
		if row.Absent == "" && (row.Name == warrenNear || row.Name == warrenFar) {
			out = append(out, row.Name)
		}
	}
	return out
}
