package main

import (
	"context"

	"github.com/warren-mesh/warren/controller"
	"github.com/warren-mesh/warren/internal/profile"
)

// profiled runs f while this process's profiles are served in a folder, if there is one.
func profiled(dir string, f func() error) error {
	stop, err := profile.Serve(dir)
	if err != nil {
		return err
	}
	defer stop()
	return f()
}

// run serves what the API server says, or else what manifests do.
func run(ctx context.Context, cfg controller.Config, k controller.Kubernetes, inCluster bool) error {
	if inCluster {
		return controller.RunOnKubernetes(ctx, cfg, k)
	}
	c, err := controller.New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}
