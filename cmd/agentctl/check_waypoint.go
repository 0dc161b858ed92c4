package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/warren-mesh/warren/internal/cluster"
)

// The oldest release of the Gateway API whose kinds are read as they are: the first with GRPCRoute v1 and routes of
// Services.
const (
	needGatewayMajor = 1
	needGatewayMinor = 1
)

// gatewayChecks are about what waypoints need. Without it the mesh is one of layer 4, which is no fault.
func gatewayChecks(g cluster.GatewayAPI) section {
	s := section{Name: "kubernetes-gateway-api"}
	if !g.Installed {
		s.expect("the Gateway API is there, or not wanted", checkOK, "for waypoints: "+gatewayAPICommand,
			"its CRDs are not installed: everything works but waypoints and routes; they begin once it is, at any time")
		return s
	}
	s.expect(fmt.Sprintf("the Gateway API is %d.%d or newer", needGatewayMajor, needGatewayMinor), checkWarn,
		"bring it up to date: "+gatewayAPICommand, oldGatewayAPI(g)...)
	return s
}

func oldGatewayAPI(g cluster.GatewayAPI) []string {
	var major, minor int
	if !slices.Contains(g.Served, "v1") {
		return []string{fmt.Sprintf("Gateways are served as %s only: there can be no waypoints", join(g.Served))}
	}
	if _, err := fmt.Sscanf(g.Version, "v%d.%d", &major, &minor); err != nil {
		return nil // CRDs that say nothing of their release serve v1
	}
	if major < needGatewayMajor || major == needGatewayMajor && minor < needGatewayMinor {
		return []string{"it is " + g.Version + ": some routes are not read"}
	}
	return nil
}

// waypointChecks looks at the Gateways of waypoints, if the requests went to a cluster that has Gateways.
func (a *app) waypointChecks(ctx context.Context) []section {
	if a.asked == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	list, err := a.asked.Waypoints(ctx, "")
	if errors.Is(err, cluster.ErrNoGatewayAPI) || err == nil && len(list) == 0 {
		return nil
	}
	return []section{waypointSection(list, err)}
}

func waypointSection(list []cluster.Waypoint, err error) section {
	s := section{Name: "kubernetes-waypoints"}
	if err != nil {
		s.expect("waypoints can be read", checkWarn,
			"your user needs to list gateways, deployments, namespaces, services and pods", err.Error())
		return s
	}
	var refused, unready, few []string
	for _, w := range list {
		at := w.Namespace + "/" + w.Name + ": "
		switch {
		case w.Accepted.Status == "False":
			refused = append(refused, at+w.Accepted.Message)
		case !w.Programmed.OK():
			unready = append(unready, at+messageOf(w))
		case w.Ready < w.Want:
			few = append(few, at+fmt.Sprintf("%d of %d pods are ready", w.Ready, w.Want))
		}
	}
	s.expect("every waypoint's Gateway is accepted", checkFail, "correct it; what it asked for before goes on running", refused...)
	s.expect("every waypoint is programmed", checkFail,
		"connections to what uses it are refused; see why: agentctl waypoint status", unready...)
	s.expect("every pod of every waypoint is ready", checkWarn,
		"the others do its work; see why: agentctl waypoint status", few...)
	return s
}
