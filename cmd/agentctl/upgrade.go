package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/internal/release"
)

// upgradeCommand brings an installation to this agentctl's version, or changes its settings.
func (a *app) upgradeCommand() *cobra.Command {
	var f releaseFlags
	var reset bool
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Upgrade Warren in a Kubernetes cluster, or change its settings",
		Long: `Bring the installation to the chart that this agentctl was built with, CRDs first. Settings that were given before
stay unless they are given anew or --reset-values says otherwise. Agents are replaced node by node: a node's pods stay
captured meanwhile and its open connections drain.`,
		Example: `  agentctl upgrade
  agentctl upgrade --set controller.replicas=3`,
		Args: exactArgs(),
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&reset, "reset-values", false, "forget the settings that were given before")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		values, err := a.values(f)
		if err != nil {
			return err
		}
		return a.upgrade(cmd.Context(), f, values, reset)
	}
	return cmd
}

func (a *app) upgrade(ctx context.Context, f releaseFlags, values map[string]any, reset bool) error {
	c, err := a.cluster()
	if err != nil {
		return err
	}
	rel, err := release.NewCluster(c, c.Namespace, a.helmLog())
	if err != nil {
		return err
	}
	info, ok, err := rel.Existing()
	if err != nil {
		return a.explainKube(c, err)
	}
	if !ok {
		return &failure{text: fmt.Sprintf("there is no release of Warren in namespace %s of %s", c.Namespace, c),
			hint: "install it: agentctl install; what came by kubectl apply is upgraded the same way: agentctl install --dry-run | kubectl apply --server-side -f -"}
	}
	facts, err := c.Look(ctx)
	if err != nil {
		return a.explainKube(c, err)
	}
	chart, err := release.Chart()
	if err != nil {
		return err
	}
	if newer := newerCRDs(facts); len(newer) > 0 && !f.force {
		return &failure{text: "the cluster's CRDs are newer than this agentctl's: " + newer[0], hint: "use an agentctl of that version, or --force to go back"}
	}
	a.printf("upgrading namespace %s of %s from %s to %s\n", c.Namespace, c, info.App, chart.Metadata.AppVersion)
	if err := rel.Upgrade(ctx, values, reset, f.timeout); err != nil {
		return &failure{text: "upgrade: " + err.Error(), hint: fmt.Sprintf("go back with: helm -n %s rollback %s", c.Namespace, release.Name), err: err}
	}
	if f.wait {
		if err := a.waitMesh(ctx, c, f.timeout); err != nil {
			return err
		}
	}
	a.printf("\nsee that all is well:\n  agentctl check\n")
	return nil
}
