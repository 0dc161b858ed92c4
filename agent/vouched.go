package agent

import (
	"crypto/x509"
	"slices"

	"github.com/warren-mesh/warren/identity"
)

// vouched is by which roots the node's SVIDs were looked through last.
type vouched struct{ roots *identity.Bundle }

// by has the SVIDs looked through if the roots are others than at the last time: each is verified then, which hardly
// any version gives a reason for.
func (v *vouched) by(roots *identity.Bundle, look func()) {
	if v.roots != nil && sameRoots(v.roots, roots) {
		return
	}
	v.roots = roots
	look()
}

// sameRoots tells whether two bundles trust the same roots.
func sameRoots(a, b *identity.Bundle) bool {
	domains := a.TrustDomains()
	if !slices.Equal(domains, b.TrustDomains()) {
		return false
	}
	for _, td := range domains {
		if !slices.EqualFunc(a.Roots(td), b.Roots(td), (*x509.Certificate).Equal) {
			return false
		}
	}
	return true
}
