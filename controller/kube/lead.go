package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// A replica that dies without a word is followed by another after leaseDuration; one that stops, at once.
const (
	leaseDuration = 8 * time.Second
	renewDeadline = 5 * time.Second
	retryPeriod   = time.Second
)

// ErrDeposed is returned by Lead if another replica leads now.
var ErrDeposed = errors.New("another replica of the controller leads now")

// Lead waits until this replica leads, and then runs serve until ctx ends, serve returns, or another replica leads.
//
// A leader that cannot renew its lease because the API server is away goes on serving: no other replica can take the
// lease then, and agents that ask for certificates need somebody. It stops once it sees that another one has it.
func (c *Cluster) Lead(ctx context.Context, serve func(context.Context) error) error {
	term := &term{serve: serve, done: make(chan error, 1)}
	defer term.end(nil)
	for ctx.Err() == nil {
		if err := c.elect(ctx, term); err != nil {
			return err
		}
		if over, err := term.over(); over {
			return err
		}
	}
	return term.end(nil)
}

// elect takes part in elections until this replica no longer holds the lease, or the term is over.
func (c *Cluster) elect(ctx context.Context, t *term) error {
	ectx, stop := context.WithCancel(ctx)
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.cfg.Namespace, Name: Lease},
			Client:     c.client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.cfg.Pod},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { t.begin(ctx, stop) },
			OnStoppedLeading: func() {
				if ctx.Err() == nil {
					c.cfg.Log.Warn("the lease was not renewed; serving goes on unless another replica takes it")
				}
			},
			OnNewLeader: func(who string) {
				c.cfg.Log.Info("leader", "pod", who)
				if who != c.cfg.Pod && who != "" {
					t.depose()
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("take part in elections: %w", err)
	}
	elector.Run(ectx)
	return nil
}
