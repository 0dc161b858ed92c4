package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/bench/measure"
	"github.com/warren-mesh/warren/bench/scene"
	"github.com/warren-mesh/warren/lab"
)

func main() {
	if lab.ShimMain(os.Args[1:]) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	handled, err := clientMain(ctx, os.Args[1:])
	if !handled {
		handled, err = scene.ServerMain(ctx, os.Args[1:])
	}
	if !handled {
		err = command().ExecuteContext(ctx)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

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
			if err := o.write(r, cmd.OutOrStdout()); err != nil {
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
