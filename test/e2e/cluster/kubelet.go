package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// kubeletOff is a file in the node's directory: while it is there, the node's init starts no kubelet.
	kubeletOff = "kubelet-off"
	// vouchEvery is how often a kubelet says that its node lives, of the NodeGrace that the controller manager grants.
	vouchEvery = 3 * time.Second
)

// WithoutKubelet calls f while the node has no kubelet and is Ready all the same: containers run on, and pods that are
// bound to the node are f's to make, as with [Node.StartBare], and to delete. It returns when the kubelet is back, which
// has seen nothing of them.
func (n *Node) WithoutKubelet(ctx context.Context, f func()) error {
	if err := os.WriteFile(n.path(kubeletOff), nil, 0o644); err != nil {
		return err
	}
	back := sync.OnceValue(func() error { return os.Remove(n.path(kubeletOff)) })
	defer func() { _ = back() }() // if f ends the test
	if _, err := n.Exec(ctx, "pkill", "-KILL", "-x", "kubelet"); err != nil {
		return fmt.Errorf("kill the kubelet of %s: %w", n.Name, err)
	}
	vctx, stop := context.WithCancel(ctx)
	defer stop()
	vouched := make(chan error, 1)
	go func() { vouched <- n.vouch(vctx) }()
	f()
	stop()
	if err := errors.Join(<-vouched, back()); err != nil {
		return err
	}
	return n.awaitKubelet(ctx)
}

// vouch renews the node's lease until ctx ends. It returns why it could not at the last time.
func (n *Node) vouch(ctx context.Context) error {
	client, err := n.c.Client()
	if err != nil {
		return err
	}
	leases := client.CoordinationV1().Leases("kube-node-lease")
	tick := time.NewTicker(vouchEvery)
	defer tick.Stop()
	for {
		now := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
		_, failed := leases.Patch(ctx, n.Name, types.MergePatchType, now, metav1.PatchOptions{})
		if ctx.Err() == nil {
			err = failed
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("renew the lease of %s: %w", n.Name, err)
			}
			return nil
		case <-tick.C:
		}
	}
}

// awaitKubelet returns when the kubelet runs, by its healthz server.
func (n *Node) awaitKubelet(ctx context.Context) error {
	for {
		conn, err := dialIn(ctx, n.Netns(), "tcp", "127.0.0.1:10248")
		if err == nil {
			return conn.Close()
		}
		if pause(ctx) != nil {
			return fmt.Errorf("the kubelet of %s does not come back: %w", n.Name, err)
		}
	}
}
