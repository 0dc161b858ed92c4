package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
)

// retryPause is between two attempts to reach an agent that may be restarting.
const retryPause = 100 * time.Millisecond

// maxReply bounds what an agent may answer: its status lists every pod of the node.
const maxReply = 16 << 20

// errSilent is wrapped by an error that is not the agent's own: it could not be reached, or did not answer.
var errSilent = errors.New("no answer")

// agent is the node's agent as the plug-in reaches it: by a connection of its own for every call.
type agent struct {
	socket   string
	patience time.Duration // how long to try again when there is no answer
}

// add returns "enrolled" or "unmanaged", or an error that wraps errSilent, or the agent's own status.
func (a agent) add(ctx context.Context, p pod, netns string) (state string, err error) {
	err = a.persist(ctx, func(conn *grpc.ClientConn) error {
		reply, err := adminv1.NewPodsClient(conn).Add(ctx, &adminv1.AddPodRequest{
			Uid: p.uid, Namespace: p.namespace, Name: p.name, Netns: netns,
		})
		state = reply.GetState()
		return err
	})
	if err == nil && state != "enrolled" && state != "unmanaged" {
		return "", fmt.Errorf("it has the pod as %.40s, which this plug-in does not know: "+
			"agent and plug-in are of different versions", state)
	}
	return state, err
}

// remove tells that a pod's network namespace goes.
func (a agent) remove(ctx context.Context, p pod, netns string) error {
	return a.persist(ctx, func(conn *grpc.ClientConn) error {
		_, err := adminv1.NewPodsClient(conn).Remove(ctx, &adminv1.RemovePodRequest{Uid: p.uid, Netns: netns})
		return err
	})
}

// state is where the agent has a pod and why, "unknown" if it does not know it.
func (a agent) state(ctx context.Context, p pod) (state, reason string, err error) {
	state = "unknown"
	err = a.persist(ctx, func(conn *grpc.ClientConn) error {
		reply, err := adminv1.NewAdminClient(conn).Status(ctx, &adminv1.StatusRequest{})
		for _, n := range reply.GetNodes() {
			for _, known := range n.Pods {
				if known.Uid == p.uid {
					state, reason = known.State, known.Reason
				}
			}
		}
		return err
	})
	if reason != "" {
		reason = "(" + clean(reason) + ")"
	}
	return state, reason, err
}

// persist calls the agent, again if it does not answer, for as long as patience says.
func (a agent) persist(ctx context.Context, call func(*grpc.ClientConn) error) error {
	until := time.Now().Add(a.patience)
	pause := time.NewTicker(retryPause)
	defer pause.Stop()
	for {
		err := a.once(ctx, call)
		if err == nil || !errors.Is(err, errSilent) || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-pause.C:
		}
	}
}

// once connects and calls.
func (a agent) once(ctx context.Context, call func(*grpc.ClientConn) error) error {
	started := time.Now()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "unix", a.socket)
	if err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	defer raw.Close()
	heard := &hearing{}
	conn, err := grpc.NewClient("passthrough:///agent",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket that only root opens
		grpc.WithContextDialer(onlyOnce(raw)), grpc.WithStatsHandler(heard), grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))
	if err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	defer conn.Close()
	switch err = call(conn); {
	case err == nil || heard.Load() && !outOfTime(err):
		return err
	case ctx.Err() != nil || outOfTime(err):
		return fmt.Errorf("%w on %s for %s", errSilent, a.socket, time.Since(started).Round(100*time.Millisecond))
	}
	return fmt.Errorf("%w on %s: %s", errSilent, a.socket, said(err))
}

// outOfTime tells an answer that only says that our own time is up, which agents notice too.
func outOfTime(err error) bool {
	code := status.Code(err)
	return code == codes.DeadlineExceeded || code == codes.Canceled
}

// onlyOnce hands out a connection that exists. One that broke is not made again: the agent may be another by then.
func onlyOnce(c net.Conn) func(context.Context, string) (net.Conn, error) {
	var used atomic.Bool
	return func(context.Context, string) (net.Conn, error) {
		if used.Swap(true) {
			return nil, errors.New("the connection broke")
		}
		return c, nil
	}
}

// hearing notes that a call was answered by a server, whatever the answer: an error's code alone does not tell
// whether it is the server's or the connection's.
type hearing struct{ atomic.Bool }

func (h *hearing) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (h *hearing) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (h *hearing) HandleConn(context.Context, stats.ConnStats)                       {}

// HandleRPC implements stats.Handler.
func (h *hearing) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InTrailer); ok {
		h.Store(true)
	}
}

// said is the text of a status, fit for a message.
func said(err error) string { return clean(status.Convert(err).Message()) }

// described is why a call failed, fit for a message.
func described(err error) string {
	if errors.Is(err, errSilent) {
		return err.Error()
	}
	return said(err)
}
