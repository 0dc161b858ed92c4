package scene

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/internal/awake"
	"github.com/warren-mesh/warren/lab"
)

// Role is what a copy of the running program does instead of its command, if its arguments say so.
type Role func(ctx context.Context, args []string) (handled bool, err error)

// Main is a bench command's main: a lab's shim, one of the roles, a server, or the command.
func Main(command *cobra.Command, roles ...Role) {
	if lab.ShimMain(os.Args[1:]) {
		return
	}
	if err := awake.Keep(); err != nil { // clients and servers are on every path that is measured
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := play(ctx, command, append(roles, ServerMain))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func play(ctx context.Context, command *cobra.Command, roles []Role) error {
	for _, role := range roles {
		if handled, err := role(ctx, os.Args[1:]); handled {
			return err
		}
	}
	return command.ExecuteContext(ctx)
}
