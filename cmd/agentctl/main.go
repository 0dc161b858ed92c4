// Command agentctl shows what the mesh does and says why. It is a client of warren.admin.v1.Admin on one unix
// socket, the controller's (whole mesh) or an agent's (its node), and holds no state of its own.
//
// Read it in this order: env.go is the only gate to the outside, root.go has the commands and exit codes, socket.go
// finds whom to ask, client.go asks, output.go and table.go print; then there is one file a noun.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/warren-mesh/warren/lab"
)

func main() {
	if lab.ShimMain(os.Args[1:]) { // a pod's process before it became the app
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, systemEnv(), os.Args[1:])
	stop()
	os.Exit(code)
}
