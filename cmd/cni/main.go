// The CNI plug-in warren-cni tells this node's agent about pods that start and end. A container runtime runs it;
// package cni says what it does.
package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/warren-mesh/warren/cni"
	"github.com/warren-mesh/warren/internal/version"
)

func main() {
	p := cni.Plugin{Out: os.Stdout}
	skel.PluginMainFuncs(p.Funcs(), p.Versions(), "CNI plug-in warren-cni "+version.String())
}
