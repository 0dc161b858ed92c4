package controller

import (
	"strings"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/compile"
)

// audiencesOf returns what a caller is known by: what is only for some is sent to those that it is for.
func audiencesOf(caller string) []string {
	if strings.HasPrefix(caller, ca.WaypointCaller) {
		return []string{compile.Waypoints}
	}
	return []string{compile.Node(caller)}
}
