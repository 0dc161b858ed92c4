package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/internal/cluster"
	"github.com/warren-mesh/warren/internal/release"
)

// uninstallFlags are those of uninstall.
type uninstallFlags struct {
	yes, crds, noLeave bool
	timeout            time.Duration
}

// uninstallCommand takes Warren out of a cluster.
func (a *app) uninstallCommand() *cobra.Command {
	var f uninstallFlags
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take Warren out of a Kubernetes cluster; pods keep running",
		Long: `Take Warren out of the cluster. First the agents let every pod go: pods keep running, their open connections too, and
new ones are as if there were no mesh. Then everything that was installed is deleted, the certificate authority's
Secret too, waypoints' pods too, and the namespace if agentctl made it and it is empty. The CRDs, and so your policies, stay unless --crds
is given; labels on your namespaces and pods stay in any case.`,
		Example: `  agentctl uninstall
  agentctl uninstall --yes --crds`,
		Args: exactArgs(),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	flags.BoolVar(&f.crds, "crds", false, "delete the CRDs of warren.dev and every policy too")
	flags.BoolVar(&f.noLeave, "no-leave", false, "do not wait for agents to let their pods go: those pods stay captured")
	flags.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.uninstall(cmd.Context(), f) }
	return cmd
}

func (a *app) uninstall(ctx context.Context, f uninstallFlags) error {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
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
	if err := a.confirm(ctx, c, info, f); err != nil {
		return err
	}
	if ok {
		if err := a.deleteRelease(c, rel, f); err != nil {
			return err
		}
	} else if _, err := c.Rollout(ctx); err == nil {
		return &failure{text: fmt.Sprintf("Warren is in namespace %s of %s, but not as a release of helm", c.Namespace, c),
			hint: fmt.Sprintf(`let agents release their pods: kubectl -n %[1]s patch configmap warren-mesh --type merge -p '{"data":{"state":"leaving"}}'; `+
				`wait until its "left" says all of them; then: agentctl install --dry-run | kubectl delete -f -; then this again`, c.Namespace)}
	}
	return a.sweep(ctx, c, f)
}

// confirm says what will happen and asks, unless --yes.
func (a *app) confirm(ctx context.Context, c *cluster.Cluster, info release.Info, f uninstallFlags) error {
	what := fmt.Sprintf("Warren %s in namespace %s of %s (%s)", info.App, c.Namespace, c, c.Host)
	if info.Revision == 0 {
		what = fmt.Sprintf("what is left of Warren in namespace %s of %s (%s); there is no release of it", c.Namespace, c, c.Host)
	}
	if f.crds {
		crds, err := c.CRDs(ctx)
		if err != nil {
			return a.explainKube(c, err)
		}
		objects := 0
		for _, crd := range crds {
			objects += crd.Objects
		}
		what += fmt.Sprintf(", its CRDs and %s", countOf(objects, "policy", "policies"))
	}
	if f.yes {
		return nil
	}
	a.printf("this deletes %s.\nPods keep running, out of the mesh. Go on? [y/N] ", clean(what))
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer == "y" || answer == "yes" {
		return nil
	}
	a.printf("\n")
	return usagef("to go on without being asked: --yes", "nothing was deleted")
}

func countOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (a *app) deleteRelease(c *cluster.Cluster, rel *release.Cluster, f uninstallFlags) error {
	if f.noLeave {
		a.printf("deleting the release\n")
	} else {
		a.printf("waiting for the agents to let their pods go, then deleting the release\n")
	}
	if _, err := rel.Uninstall(!f.noLeave, f.timeout); err != nil {
		return &failure{text: "uninstall: " + err.Error(), err: err,
			hint: fmt.Sprintf("see why: kubectl -n %s logs job/warren-leave; to go on all the same: agentctl uninstall --no-leave", c.Namespace)}
	}
	return nil
}

// sweep deletes what no release owns, and says what stays.
func (a *app) sweep(ctx context.Context, c *cluster.Cluster, f uninstallFlags) error {
	deleted, err := c.SweepWaypoints(ctx)
	if err == nil {
		var more []string
		more, err = c.Sweep(ctx)
		deleted = append(deleted, more...)
	}
	if err == nil && f.crds {
		var crds []string
		crds, err = c.DeleteCRDs(ctx)
		deleted = append(deleted, crds...)
	}
	for _, d := range deleted {
		a.printf("deleted %s\n", clean(d))
	}
	if err != nil {
		return a.explainKube(c, err)
	}
	gone, why, err := c.SweepNamespace(ctx)
	switch {
	case err != nil:
		return a.explainKube(c, err)
	case gone:
		a.printf("deleted Namespace %s\n", c.Namespace)
	default:
		a.printf("left Namespace %s: %s\n", c.Namespace, clean(why))
	}
	if !f.crds {
		a.printf("left the CRDs of warren.dev and your policies (--crds deletes them)\n")
	}
	a.printf("left the labels warren.dev/mesh on your namespaces and pods: they mean nothing now\n")
	if list, err := c.Waypoints(ctx, ""); err == nil && len(list) > 0 {
		a.printf("left %s of class %s, which are yours, and the labels %s: they mean nothing now\n",
			countOf(len(list), "Gateway", "Gateways"), cluster.WaypointClass, cluster.UseWaypoint)
	}
	return nil
}
