package agent

import (
	"context"
	"fmt"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/ztunnel"
)

// Get returns the identity's SVID. It waits for a first one, but not for one that expired: the CA had half of its
// life to renew it.
func (c certs) Get(ctx context.Context, id identity.Name) (*identity.SVID, error) {
	if svid, err := c.Current(id); err == nil {
		return svid, nil
	}
	for _, s := range c.Snapshot() {
		if s.ID == id.String() && s.State == "expired" {
			return nil, fmt.Errorf("identity %q: %w at %s (the last attempt to renew it: %s)", s.ID, ztunnel.ErrExpired,
				s.NotAfter.UTC().Format("2006-01-02T15:04:05Z"), s.Err)
		}
	}
	return c.Manager.Get(ctx, id)
}
