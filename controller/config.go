package controller

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/warren-mesh/warren/ca/attest"
	"github.com/warren-mesh/warren/controller/manifest"
)

// Source says what the mesh should be.
type Source interface {
	// Run calls changed with what there is now, and again after every change, until ctx ends.
	Run(ctx context.Context, changed func(manifest.Result)) error
}

// Config is what a controller is told. Fields without a default are required.
type Config struct {
	// Source says what the mesh should be; nil reads Manifests.
	Source Source
	// Manifests are files and folders of manifests; StatusManifests hold what kubelets or allocators write.
	Manifests       []string
	StatusManifests []string
	// Leaving tells whether the mesh is being taken away; nil means never. Source says so when it changes.
	Leaving func() bool
	// Attestor decides who is a node; nil takes join tokens of the state directory.
	Attestor attest.NodeAttestor
	// Waypoints decides who is a waypoint's pod; nil takes join tokens, too.
	Waypoints attest.WaypointAttestor
	// KnownNodesOnly refuses certificates to nodes that the source does not have.
	KnownNodesOnly bool
	// StateDir holds the CA's key, join tokens, copies of good manifests and bundle.pem. It is made with mode 0700.
	StateDir string
	// Listen is the address for agents. The default is ":15012".
	Listen string
	// AdminSocket is the unix socket for agentctl. The default is /run/warren/controller.sock.
	AdminSocket string
	// AdminListen serves agentctl over TCP too; only on a loopback address, as nobody is asked who he is. Empty serves
	// the socket only.
	AdminListen string
	// MetricsListen serves /metrics, /healthz and /readyz; empty serves none.
	MetricsListen string
	// TrustDomain is the SPIFFE trust domain. The default is cluster.local.
	TrustDomain string
	// ClusterDomain is the last part of services' names. The default is cluster.local.
	ClusterDomain string
	// RootNamespace holds the policies of the whole mesh. The default is warren-system.
	RootNamespace string
	// CACert and CAKey are an existing CA, PEM; by default the controller makes one in StateDir. CARoots are more
	// roots to trust, for an exchange of CAs.
	CACert, CAKey, CARoots string
	// WorkloadTTL is the life of workloads' certificates. Half of it is how long the controller may be away. The
	// default is 12 h.
	WorkloadTTL time.Duration

	Version string
	Log     *slog.Logger
}

func (c *Config) setDefaults() error {
	c.Listen = cmp.Or(c.Listen, ":15012")
	c.AdminSocket = cmp.Or(c.AdminSocket, "/run/warren/controller.sock")
	c.TrustDomain = cmp.Or(c.TrustDomain, "cluster.local")
	c.ClusterDomain = cmp.Or(c.ClusterDomain, "cluster.local")
	if c.Leaving == nil {
		c.Leaving = func() bool { return false }
	}
	c.WorkloadTTL = cmp.Or(c.WorkloadTTL, 12*time.Hour)
	switch {
	case len(c.Manifests) == 0 && c.Source == nil:
		return errors.New("controller: no manifests: name at least one file or folder")
	case c.StateDir == "":
		return errors.New("controller: no state directory")
	case (c.CACert == "") != (c.CAKey == ""):
		return errors.New("controller: a CA needs both its certificate and its key")
	case c.Log == nil:
		return errors.New("controller: no log")
	}
	return nil
}
