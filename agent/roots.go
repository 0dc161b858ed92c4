package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/warren-mesh/warren/identity"
)

// controllerRoots are those that vouch for the controller: what it said itself, and what the trust bundle's file says now.
// After the mesh was made anew with another CA, only the file knows.
func (a *Agent) controllerRoots() *identity.Bundle {
	current := a.bundles.Load()
	file, err := a.bundleFile.read()
	if err != nil {
		return current // it was readable at the start
	}
	roots := append(slices.Clone(current.Roots(a.cfg.TrustDomain)), file.Roots(a.cfg.TrustDomain)...)
	both, err := identity.NewBundle(map[string][]*x509.Certificate{a.cfg.TrustDomain: roots})
	if err != nil {
		return current
	}
	return both
}

// bundleFile is the file with the roots that agents begin with. Whoever looks after it may replace it at any time.
type bundleFile struct {
	path, trustDomain string

	mu     sync.Mutex
	size   int64
	mtime  time.Time
	bundle *identity.Bundle
}

// read returns what the file says now. It is parsed again only if it is another one than before.
func (f *bundleFile) read() (*identity.Bundle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("read trust bundle: %w", err)
	}
	if f.bundle != nil && info.Size() == f.size && info.ModTime().Equal(f.mtime) {
		return f.bundle, nil
	}
	bundle, err := readBundle(f.path, f.trustDomain)
	if err == nil {
		f.bundle, f.size, f.mtime = bundle, info.Size(), info.ModTime()
	}
	return bundle, err
}

func readBundle(path, trustDomain string) (*identity.Bundle, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read trust bundle: %w", err)
	}
	var roots []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("trust bundle %s: %w", path, err)
		}
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("trust bundle %s: no PEM certificate in it", path)
	}
	return identity.NewBundle(map[string][]*x509.Certificate{trustDomain: roots})
}

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
		file, err := a.bundleFile.read()
		svid, none := a.manager.Current(node)
		if err != nil || none != nil || a.feed.Status().Connected || svid.Verify(file, time.Now()) == nil {
			continue
		}
		a.cfg.Log.Warn("the roots that agents begin with do not vouch for this node's SVID any more: asking for another")
		a.manager.Forget(nodeUID)
		a.manager.Want(nodeUID, node)
	}
}
