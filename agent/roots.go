package agent

import (
	"context"
	"time"

	"github.com/warren-mesh/warren/identity"
)

// controllerRoots are those that vouch for the controller: what it said itself, and what the trust bundle's file says now.
func (a *Agent) controllerRoots() *identity.Bundle { return a.bundleFile.With(a.bundles.Load()) }

// checkNode is how often a node that does not reach the controller looks whether its own SVID can be why.
const checkNode = 10 * time.Second

// keepNode gives up the node's own SVID once the roots that agents begin with no longer vouch for it, while the controller
// is not followed: the CA was exchanged while this node was away. Then the node proves itself anew.
func (a *Agent) keepNode(ctx context.Context) error {
	tick := time.NewTicker(checkNode)
	defer tick.Stop()
	node, err := identity.NodeID(a.cfg.TrustDomain, a.cfg.Node)
	if err != nil {
		return err // checked by identities
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		file, err := a.bundleFile.Read()
		svid, none := a.manager.Current(node)
		if err != nil || none != nil || a.feed.Status().Connected || svid.Verify(file, time.Now()) == nil {
			continue
		}
		a.cfg.Log.Warn("the roots that agents begin with do not vouch for this node's SVID any more: asking for another")
		a.manager.Forget(nodeUID)
		a.manager.Want(nodeUID, node)
	}
}
