package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// waitCommand waits until what was asked for is in force.
func (a *app) waitCommand() *cobra.Command {
	var namespace string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait KIND/NAME",
		Short: "Wait until a policy, a pod or the whole configuration is in force",
		Long: `Wait until every node that it concerns enforces it. A node acknowledges what it enforces, so after this returns a
connection that the policy forbids is no longer there.

  policy/NAME   the policy is enforced on every node with a pod it selects, and by every waypoint that enforces it
  pod/NAME      the pod is in the mesh: captured and served
  config        every connected agent enforces the newest configuration`,
		Example: `  kubectl apply -f allow-web.yaml && agentctl wait policy/allow-web -n shop
  agentctl wait pod/shop/web-0 --timeout 10s
  agentctl wait config`,
		Args: exactArgs("KIND/NAME"),
	}
	a.namespaceFlag(cmd, &namespace)
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		left, err := a.waitFor(args[0], namespace)
		if err != nil {
			return err
		}
		return a.waitUntil(cmd.Context(), timeout, args[0], left)
	}
	return cmd
}

// waiting says what is missing still, "" once nothing is.
type waiting func(ctx context.Context) (string, error)

func (a *app) waitFor(what, namespace string) (waiting, error) {
	kind, name, _ := strings.Cut(what, "/")
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		namespace, name = ns, rest
	}
	switch {
	case kind == "config" && name == "":
		return a.configLeft, nil
	case name == "":
	case namespace == "":
		return nil, usagef("write "+kind+"/NAMESPACE/"+name+", or add -n NAMESPACE", "%s: of which namespace?", what)
	case kind == "policy":
		return func(ctx context.Context) (string, error) { return a.policyLeft(ctx, namespace, name) }, nil
	case kind == "pod":
		return func(ctx context.Context) (string, error) { return a.podLeft(ctx, namespace, name) }, nil
	}
	return nil, usagef("see: agentctl wait --help", "%q is none of policy/NAME, pod/NAME and config", what)
}

func (a *app) waitUntil(ctx context.Context, timeout time.Duration, what string, left waiting) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(pollEvery / 5)
	defer tick.Stop()
	said := ""
	for {
		text, err := left(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil && text == "":
			a.printf("%s: in force\n", clean(what))
			return nil
		case err == nil && text != said:
			a.printf("%s: %s\n", clean(what), clean(text))
			said = text
		}
		select {
		case <-ctx.Done():
			return &failure{text: fmt.Sprintf("%s is not in force after %s: %s", what, timeout, said), hint: "see: agentctl status", err: ctx.Err()}
		case <-tick.C:
		}
	}
}

func (a *app) policyLeft(ctx context.Context, namespace, name string) (string, error) {
	reply, err := ask(ctx, a, adminv1.AdminClient.Policies, &adminv1.ListRequest{Namespace: namespace})
	if err != nil {
		return "", err
	}
	text := "the controller does not know it"
	for _, p := range reply.Policies {
		if p.Name != name {
			continue
		}
		if p.Enforced < p.Wanted {
			return fmt.Sprintf("%s is enforced on %d of %d nodes", p.Kind, p.Enforced, p.Wanted), nil
		}
		text = ""
	}
	return text, nil
}

func (a *app) podLeft(ctx context.Context, namespace, name string) (string, error) {
	reply, err := ask(ctx, a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	if err != nil {
		return "", err
	}
	for _, n := range reply.Nodes {
		for _, p := range n.Pods {
			if p.Namespace != namespace || p.Name != name {
				continue
			}
			if p.State == "enrolled" {
				return "", nil
			}
			return strings.TrimSuffix(p.State+": "+p.Reason, ": "), nil
		}
	}
	return "no agent knows it", nil
}

func (a *app) configLeft(ctx context.Context) (string, error) {
	reply, err := ask(ctx, a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	if err != nil {
		return "", err
	}
	enforced, all := 0, 0
	for _, n := range reply.Nodes {
		if !n.Connected {
			continue
		}
		if all++; n.EnforcedVersion >= n.LatestVersion {
			enforced++
		}
	}
	if enforced == all && all > 0 {
		return "", nil
	}
	return fmt.Sprintf("%d of %d agents enforce the newest configuration", enforced, all), nil
}
