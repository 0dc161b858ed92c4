package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/internal/cluster"
)

const waypointLong = `A waypoint is an L7 proxy that a service, a pod or a whole namespace can be given: it follows HTTPRoutes and the other
routes of the Gateway API, enforces policies about requests, and traces them. It is declared by a Gateway of class
warren-waypoint, for which the controller runs a Deployment, and used by whoever has the label

  warren.dev/use-waypoint: NAME            on a namespace, a service or a pod; "none" opts out
  warren.dev/use-waypoint-namespace: NS    beside it, if the Gateway is in another namespace and lets that one use it

A destination that uses a waypoint is reached through it only: while no pod of it is ready, connections are refused.`

// waypointCommand is about the Gateways that are waypoints.
func (a *app) waypointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "waypoint", Aliases: []string{"waypoints"}, Short: "Make, list and delete waypoints, the mesh's L7 proxies",
		Long: waypointLong,
		Example: `  agentctl waypoint apply -n shop --enroll-namespace
  agentctl waypoint list
  agentctl waypoint generate -n shop --replicas 2-10 > waypoint.yaml`,
		Args: cobra.ArbitraryArgs, RunE: helpOrUnknown,
	}
	cmd.AddCommand(a.waypointApply(), a.waypointGenerate(), a.waypointList(), a.waypointStatus(), a.waypointDelete())
	return cmd
}

// waypointFlags describe a Gateway.
type waypointFlags struct {
	name, namespace string
	traffic         choice
	share           choice
	replicas        string
}

func (a *app) addWaypointFlags(cmd *cobra.Command, w *waypointFlags) {
	w.traffic, w.share = newChoice("all", "all", "service", "workload"), newChoice("same", "same", "all")
	f := cmd.Flags()
	f.StringVar(&w.name, "name", "waypoint", "name of the Gateway")
	f.StringVarP(&w.namespace, "namespace", "n", "default", "namespace that it is in")
	f.Var(&w.traffic, "for", "what goes through it: connections to services, to pods' own addresses (workload), or all")
	f.Var(&w.share, "share", "who may use it: its own namespace (same), or all")
	f.StringVar(&w.replicas, "replicas", "", `how many pods: "3", or "2-10" to follow the load (default the installation's, 2)`)
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	_ = cmd.RegisterFlagCompletionFunc("for", w.traffic.complete)
	_ = cmd.RegisterFlagCompletionFunc("share", w.share.complete)
}

// gateway is the Gateway, or a mistake in the command line.
func (w *waypointFlags) gateway() (map[string]any, error) {
	for flag, value := range map[string]string{"--name": w.name, "--namespace": w.namespace} {
		if !isLabel(value) {
			return nil, usagef("use lower-case letters, digits and dashes, a letter first, at most 63",
				"%s: %q cannot be a name", flag, value)
		}
	}
	meta := map[string]any{"name": w.name, "namespace": w.namespace,
		"labels": map[string]any{cluster.WaypointFor: w.traffic.value}}
	if w.replicas != "" {
		if !goodReplicas(w.replicas) {
			return nil, usagef("write a number such as 3, or a range such as 2-10, up to 1000",
				"--replicas: %q is not a number of pods", w.replicas)
		}
		meta["annotations"] = map[string]any{cluster.WaypointReplicas: w.replicas}
	}
	listener := map[string]any{"name": "mesh", "port": int64(15008), "protocol": "HBONE"}
	if w.share.value == "all" {
		listener["allowedRoutes"] = map[string]any{"namespaces": map[string]any{"from": "All"}}
	}
	return map[string]any{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": meta,
		"spec": map[string]any{"gatewayClassName": cluster.WaypointClass, "listeners": []any{listener}}}, nil
}

// isLabel says if a name can be a Service's (RFC 1035).
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] < 'a' || s[0] > 'z' || strings.HasSuffix(s, "-") {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }) < 0
}

func goodReplicas(s string) bool {
	least, most, ranged := strings.Cut(s, "-")
	n, err := strconv.Atoi(least)
	if err != nil || n < 1 || n > 1000 || !ranged {
		return err == nil && n >= 1 && n <= 1000
	}
	m, err := strconv.Atoi(most)
	return err == nil && m >= n && m <= 1000
}

func (a *app) waypointGenerate() *cobra.Command {
	var w waypointFlags
	cmd := &cobra.Command{
		Use: "generate", Short: "Print the Gateway of a waypoint",
		Long: "Print the Gateway of a waypoint as YAML, for kubectl apply, a repository or a lab's folder of manifests.\n" +
			"No cluster is asked.",
		Example: `  agentctl waypoint generate -n shop | kubectl apply -f -
  agentctl waypoint generate -n shop --for service --replicas 3 > waypoint.yaml`,
		Args: exactArgs(),
	}
	a.addWaypointFlags(cmd, &w)
	cmd.RunE = func(*cobra.Command, []string) error {
		gateway, err := w.gateway()
		if err != nil {
			return err
		}
		out, err := yaml.Marshal(gateway)
		if err != nil {
			return fmt.Errorf("write the Gateway: %w", err)
		}
		return a.writeAll(out)
	}
	return cmd
}

func (a *app) waypointApply() *cobra.Command {
	var w waypointFlags
	var enroll, wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "apply", Short: "Make a waypoint, or change one",
		Long: `Apply the Gateway of a waypoint and wait until a pod of it is ready. With --enroll-namespace, everything that is sent to
the namespace goes through it from then on: the label is set once it is ready, so that nothing is refused meanwhile.`,
		Example: `  agentctl waypoint apply -n shop --enroll-namespace
  agentctl waypoint apply -n shop --name payments --for service --replicas 2-10
  kubectl label service -n shop payments warren.dev/use-waypoint=payments`,
		Args: exactArgs(),
	}
	a.addWaypointFlags(cmd, &w)
	f := cmd.Flags()
	f.BoolVar(&enroll, "enroll-namespace", false, "make its namespace use it")
	f.BoolVar(&wait, "wait", true, "wait until it is ready")
	f.DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.applyGateway(cmd.Context(), w)
		if err != nil {
			return err
		}
		if wait {
			if err := a.waitWaypoint(cmd.Context(), c, w.namespace, w.name, timeout); err != nil {
				return err
			}
		}
		return a.finishApply(cmd.Context(), c, w, enroll)
	}
	return cmd
}

// applyGateway writes the Gateway to the cluster of the kubeconfig, which it returns.
func (a *app) applyGateway(ctx context.Context, w waypointFlags) (*cluster.Cluster, error) {
	gateway, err := w.gateway()
	if err != nil {
		return nil, err
	}
	c, err := a.waypointCluster()
	if err != nil {
		return nil, err
	}
	if err := a.checkGatewayAPI(ctx, c); err != nil {
		return nil, err
	}
	if err := c.ApplyGateway(ctx, gateway); err != nil {
		return nil, a.explainKube(c, err)
	}
	a.printf("applied Gateway %s/%s\n", w.namespace, w.name)
	return c, nil
}

// finishApply makes the namespace use the waypoint, or says how.
func (a *app) finishApply(ctx context.Context, c *cluster.Cluster, w waypointFlags, enroll bool) error {
	if !enroll {
		a.printf("\nnothing goes through it yet, unless a label says so; to let everything that is sent to the namespace:\n"+
			"  kubectl label namespace %s %s=%s\n", w.namespace, cluster.UseWaypoint, w.name)
		return nil
	}
	before, err := c.EnrollNamespace(ctx, w.namespace, w.name)
	if err != nil {
		return a.explainKube(c, err)
	}
	if before != "" && before != w.name {
		a.printf("namespace %s used waypoint %q before\n", w.namespace, clean(before))
	}
	a.printf("labelled Namespace %s %s=%s\n", w.namespace, cluster.UseWaypoint, w.name)
	return nil
}

// waypointCluster is the cluster of the kubeconfig: what a Gateway is written to.
func (a *app) waypointCluster() (*cluster.Cluster, error) {
	if a.socket != "" || a.lab != "" {
		return nil, usagef("write it with agentctl waypoint generate, and put it into the folder of manifests",
			"--socket and --lab mean a mesh without Kubernetes, which takes a Gateway from its manifests")
	}
	return a.cluster()
}

// checkGatewayAPI refuses a cluster that has no Gateways, and says how it gets them.
func (a *app) checkGatewayAPI(ctx context.Context, c *cluster.Cluster) error {
	if _, err := c.Waypoints(ctx, c.Namespace); err != nil {
		return a.explainWaypoints(c, err)
	}
	return nil
}

// gatewayAPICommand installs the CRDs of the Gateway API, of the release that this version is tested with.
const gatewayAPICommand = "kubectl apply --server-side -f " +
	"https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.3/standard-install.yaml"

func (a *app) explainWaypoints(c *cluster.Cluster, err error) error {
	if errors.Is(err, cluster.ErrNoGatewayAPI) {
		return &failure{text: err.Error() + ": there can be no waypoints", hint: "install it: " + gatewayAPICommand, err: err}
	}
	return a.explainKube(c, err)
}

// waitWaypoint prints a line whenever something changes, until a Gateway is programmed or refused.
func (a *app) waitWaypoint(ctx context.Context, c *cluster.Cluster, namespace, name string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(pollEvery / 2)
	defer tick.Stop()
	said := ""
	for {
		w, text, err := a.lookAtWaypoint(ctx, c, namespace, name)
		switch {
		case err != nil && ctx.Err() == nil:
			return a.explainWaypoints(c, err)
		case err == nil && w.Accepted.Status == "False":
			return &failure{text: fmt.Sprintf("Gateway %s/%s is not accepted: %s", namespace, name, w.Accepted.Message),
				hint: fmt.Sprintf("see: kubectl -n %s describe gateway %s", namespace, name)}
		case err == nil && w.Programmed.OK():
			a.printf("waypoint %s/%s: ready, %s\n", namespace, name, clean(text))
			return nil
		case err == nil && text != said:
			a.printf("waypoint %s/%s: %s\n", namespace, name, clean(text))
			said = text
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &failure{text: fmt.Sprintf("waypoint %s/%s is not ready after %s: %s", namespace, name, timeout, said),
				hint: fmt.Sprintf("look at its pods: kubectl -n %s describe pods -l gateway.networking.k8s.io/gateway-name=%s; "+
					"it goes on by itself", namespace, name), err: context.DeadlineExceeded}
		}
	}
}

// lookAtWaypoint reads a waypoint, and how far it is in words.
func (a *app) lookAtWaypoint(
	ctx context.Context, c *cluster.Cluster, namespace, name string,
) (w cluster.Waypoint, text string, err error) {
	list, err := c.Waypoints(ctx, namespace)
	if err != nil {
		return w, "", err
	}
	for _, w = range list {
		if w.Name != name {
			continue
		}
		switch {
		case w.Programmed.Status == "" || w.Programmed.Status == "Unknown":
			return w, "waiting for the controller; is Warren installed? agentctl check", nil
		case w.Programmed.OK():
			return w, w.Programmed.Message, nil
		}
		text = w.Programmed.Message
		if waiting, err := c.WaypointWaiting(ctx, namespace, name); err == nil && len(waiting) > 0 {
			text += "; " + strings.Join(waiting[:min(len(waiting), maxWaiting)], "; ")
		}
		return w, text, nil
	}
	return w, "", fmt.Errorf("gateway %s/%s was deleted meanwhile", namespace, name)
}
