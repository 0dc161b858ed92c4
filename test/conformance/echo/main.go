// Command echo is both ends of the conformance suite's conversations: a server that answers with what it was asked, and
// the client that the suite runs in its pods. It stands in for the image echo-advanced, which the suite's manifests name
// and which cannot be built from its module: the arguments, and the lines that the suite reads (utils/echo/parse.go
// there), are the same. The gRPC service is the suite's own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, filepath.Base(os.Args[0]), os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run does what the name says under which the program was started.
func run(ctx context.Context, name string, args []string) error {
	switch name {
	case "client":
		return ask(ctx, args, os.Stdout)
	case "server":
		return serve(ctx, args)
	}
	return fmt.Errorf("%q is neither client nor server: start the program under one of these names", name)
}
