package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/warren-mesh/warren/internal/release"
)

// nodeSections runs "agentctl check --pre --local" in a pod on every node, and returns what each found.
func (a *app) nodeSections(ctx context.Context, f releaseFlags) ([]section, error) {
	c, err := a.cluster()
	if err != nil {
		return nil, err
	}
	values, err := a.values(f)
	if err != nil {
		return nil, err
	}
	manifests, _, err := release.Render(ctx, c.Namespace, values)
	if err != nil {
		return nil, usagef("see deploy/chart/values.yaml for what can be set", "%s", err)
	}
	found, err := c.Probe(ctx, manifests, []string{"/agentctl", "check", "--pre", "--local", "-o", "json"})
	if err != nil {
		return nil, a.explainKube(c, err)
	}
	var all []section
	for _, p := range found {
		all = append(all, nodeSection(p.Node, p.Output, p.Err))
	}
	return all, nil
}

// nodeSection puts what was found on one node into one section.
func nodeSection(node, output string, err error) section {
	s := section{Name: "node " + node}
	var ran []section
	if err == nil {
		err = json.Unmarshal([]byte(output), &ran)
	}
	if err != nil {
		s.expect("a pod with the rights of an agent runs", checkFail, "the reason is the one that an agent would have", fmt.Sprint(err))
		return s
	}
	s.expect("a pod with the rights of an agent runs", checkFail, "")
	for _, one := range ran {
		s.Checks = append(s.Checks, one.Checks...)
	}
	return s
}
