package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/internal/cluster"
	"github.com/warren-mesh/warren/internal/release"
)

// releaseFlags are those of install and upgrade.
type releaseFlags struct {
	files   []string
	sets    []string
	wait    bool
	timeout time.Duration
	dryRun  bool
	force   bool
}

func (f *releaseFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "values", "f", nil, "file with the chart's settings (repeatable)")
	flags.StringArrayVar(&f.sets, "set", nil, "one setting of the chart, such as agent.drainTimeout=10s (repeatable)")
	flags.BoolVar(&f.wait, "wait", true, "wait until controller and agents are ready")
	flags.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait")
	flags.BoolVar(&f.force, "force", false, "go on although a check failed")
}

// values reads the settings that the command line names.
func (a *app) values(f releaseFlags) (map[string]any, error) {
	var raws [][]byte
	for _, name := range f.files {
		raw, err := a.readFile(name)
		if err != nil {
			return nil, &failure{text: fmt.Sprintf("read the settings: %s", err), hint: "is the path right?", err: err}
		}
		raws = append(raws, raw)
	}
	values, err := release.Values(raws, f.sets)
	if err != nil {
		return nil, usagef("see deploy/chart/values.yaml for what can be set", "%s", err)
	}
	return values, nil
}

// installCommand puts Warren into a cluster.
func (a *app) installCommand() *cobra.Command {
	var f releaseFlags
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install Warren into a Kubernetes cluster",
		Long: `Install Warren into the cluster of the kubeconfig: the chart that this agentctl was built with, as helm would. First
the checks of agentctl check --pre run, and nothing is changed if one fails. Then it waits until controller and agents
are ready and says what it waits for. No pod is in the mesh until a namespace is labelled.`,
		Example: `  agentctl install
  agentctl install --set image.registry=registry.example.org/warren -f values.yaml
  agentctl install --dry-run | kubectl apply --server-side -f -`,
		Args: exactArgs(),
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the manifests and ask no cluster")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		values, err := a.values(f)
		if err != nil {
			return err
		}
		manifests, _, err := release.Render(cmd.Context(), a.warrenNamespace(), values)
		if err != nil {
			return usagef("see deploy/chart/values.yaml for what can be set", "%s", err)
		}
		if f.dryRun {
			return a.printManifests(manifests)
		}
		return a.install(cmd.Context(), f, values)
	}
	return cmd
}

// printManifests prints the namespace, which a chart cannot make, and then the chart.
func (a *app) printManifests(manifests string) error {
	ns, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": a.warrenNamespace(), "labels": cluster.NamespaceLabels()}})
	if err != nil {
		return fmt.Errorf("write the namespace: %w", err)
	}
	return a.writeAll([]byte("---\n" + string(ns) + strings.TrimRight(manifests, "\n") + "\n"))
}

func (a *app) install(ctx context.Context, f releaseFlags, values map[string]any) error {
	c, err := a.cluster()
	if err != nil {
		return err
	}
	rel, err := release.NewCluster(c, c.Namespace, a.helmLog())
	if err != nil {
		return err
	}
	if err := a.preflight(ctx, c, rel, f.force); err != nil {
		return err
	}
	a.printf("installing into namespace %s of %s\n", c.Namespace, c)
	if err := c.EnsureNamespace(ctx); err != nil {
		return a.explainKube(c, err)
	}
	if err := rel.Install(ctx, values, f.timeout); err != nil {
		return &failure{text: "install: " + err.Error(), hint: "what was made so far goes away with: agentctl uninstall", err: err}
	}
	if f.wait {
		if err := a.waitMesh(ctx, c, f.timeout); err != nil {
			return err
		}
	}
	a.printf("\nnothing is in the mesh yet; put a namespace into it, running pods too:\n  kubectl label namespace NAME warren.dev/mesh=enabled\n" +
		"and see what happens:\n  agentctl status\n")
	return nil
}

// preflight runs the quick checks and prints what is not all right.
func (a *app) preflight(ctx context.Context, c *cluster.Cluster, rel *release.Cluster, force bool) error {
	if info, ok, err := rel.Existing(); err != nil {
		return a.explainKube(c, err)
	} else if ok {
		return &failure{text: fmt.Sprintf("Warren %s is in namespace %s of %s already (revision %d, %s)", info.App, c.Namespace, c, info.Revision, info.Status),
			hint: "bring it to this version: agentctl upgrade; or take it out: agentctl uninstall"}
	}
	facts, err := c.Look(ctx)
	if err != nil {
		return a.explainKube(c, err)
	}
	sections := slices.DeleteFunc(clusterChecks(c, facts), func(s section) bool { return worst([]section{s}) == checkOK })
	if len(sections) == 0 {
		return nil
	}
	a.showChecks(sections)
	if worst(sections) == checkFail && !force {
		return &failure{text: "nothing was installed: a check failed", hint: "correct it, or go on all the same with --force"}
	}
	return nil
}

// helmLog keeps helm's own chatter away; what it returns as errors is told.
func (a *app) helmLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
