package meshtest

import "github.com/warren-mesh/warren/identity"

// Trust puts a trust bundle in force on the node, as an update by the controller would, and returns once it is.
func (n *Node) Trust(b *identity.Bundle) {
	n.bundle.Swap(b)
	n.Certs.BundleChanged()
	n.Proxy.Redecide()
}

// Trusted returns the trust bundle in force on the node.
func (n *Node) Trusted() *identity.Bundle { return n.bundle.Load() }
