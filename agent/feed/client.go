package feed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/mesh"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 4 * time.Second
)

// DialOptions are what the connection to the controller needs besides credentials: updates may be as large as
// [MaxState], it is tried again as soon as the feed does, and a dead controller is noticed within 15 s.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxState)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff / 2},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Config is what a Client needs.
type Config struct {
	Client       meshv1.MeshClient
	AgentVersion string
	// StateFile is where the last good state is kept; empty keeps none.
	StateFile string
	// Enforce makes the node behave as a state says and returns once it does. It is called by one goroutine at a
	// time, after the store holds the state. An error refuses the version; the state stays in the store, as its
	// policies may already be relied on, and is tried again.
	Enforce func(ctx context.Context, s *State) error
	Log     *slog.Logger
}

// Status is how the feed is doing.
type Status struct {
	Connected bool
	// Epoch and Enforced are what the controller was last told to be enforced.
	Epoch      string
	Enforced   uint64
	EnforcedAt time.Time
	// Latest is the newest version that came, enforced or not.
	Latest    uint64
	LastNack  string
	LastError string
}

// Client watches the controller.
type Client struct {
	cfg   Config
	store *mesh.Store[State]

	mu     sync.Mutex
	status Status

	resync bool          // ask for everything at the next connection; only Run's goroutine uses it
	save   chan struct{} // wakes the saver, holds at most one; closed when Run ends, which is once
}

// New returns a client whose store holds what the state file has. A file that is damaged or absent is an empty state
// and a log line.
func New(cfg Config) *Client {
	state := Empty()
	if cfg.StateFile != "" {
		loaded, err := loadState(cfg.StateFile, time.Now())
		switch {
		case err == nil:
			state = loaded
			cfg.Log.Info("last good state read", "file", cfg.StateFile, "epoch", state.Epoch, "version", state.Version)
		case errors.Is(err, fs.ErrNotExist):
			cfg.Log.Info("no last good state: starting empty", "file", cfg.StateFile)
		default:
			cfg.Log.Error("the last good state cannot be used: starting empty", "file", cfg.StateFile, "err", err)
		}
	}
	return &Client{cfg: cfg, store: mesh.NewStore(state), save: make(chan struct{}, 1)}
}

// Store returns where the current state is. Readers must not change it.
func (c *Client) Store() *mesh.Store[State] { return c.store }

// Status returns how the feed is doing.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Client) note(f func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.status)
}

// Run enforces the state that was read from disk and then follows the controller until ctx ends, whatever fails.
// It returns ctx's error.
func (c *Client) Run(ctx context.Context) error {
	saved := make(chan struct{})
	go func() { defer close(saved); c.saver() }()
	defer func() { close(c.save); <-saved }() // only once nobody applies updates any more

	if s := c.store.Load(); s.Version > 0 {
		if err := c.cfg.Enforce(ctx, s); err != nil {
			c.cfg.Log.Error("the last good state cannot be enforced", "err", err)
			c.resync = true
		} else {
			c.enforced(s)
		}
	}
	delay := minBackoff
	for {
		progress, err := c.session(ctx)
		c.note(func(s *Status) { s.Connected, s.LastError = false, err.Error() })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if progress {
			delay = minBackoff
		}
		wait := jitter(delay)
		c.cfg.Log.Warn("not following the controller", "err", err, "again_in", wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		delay = min(2*delay, maxBackoff)
	}
}

// jitter spreads a delay over its upper half, so that agents which lost one controller do not return as one.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

// session follows one stream until it ends. progress tells whether a version was enforced meanwhile.
func (c *Client) session(ctx context.Context) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.cfg.Client.Watch(ctx)
	if err != nil {
		return false, fmt.Errorf("watch: %w", err)
	}
	if err := stream.Send(&meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Hello{Hello: c.hello()}}); err != nil {
		return false, fmt.Errorf("watch: hello: %w", recvError(stream, err))
	}
	if header, err := stream.Header(); err == nil && header != nil {
		c.note(func(s *Status) { s.Connected, s.LastError = true, "" })
	}
	for {
		u, err := stream.Recv()
		if err != nil {
			return progress, fmt.Errorf("watch: %w", err)
		}
		c.note(func(s *Status) { s.Latest = u.GetVersion() })
		if err := c.take(ctx, u); err != nil {
			c.resync = true
			c.note(func(s *Status) { s.LastNack = err.Error() })
			nack := &meshv1.Nack{Version: u.GetVersion(), Reason: err.Error()}
			if sendErr := stream.Send(&meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Nack{Nack: nack}}); sendErr != nil {
				return progress, errors.Join(err, fmt.Errorf("watch: nack: %w", sendErr))
			}
			finish(stream, cancel)
			return progress, err
		}
		progress, c.resync = true, false
		ack := &meshv1.Ack{Version: u.GetVersion()}
		if err := stream.Send(&meshv1.WatchRequest{Kind: &meshv1.WatchRequest_Ack{Ack: ack}}); err != nil {
			return progress, fmt.Errorf("watch: ack: %w", recvError(stream, err))
		}
	}
}

// finish closes our side and waits until the controller read what was sent and closed its own, at most 5 s.
func finish(stream meshv1.Mesh_WatchClient, cancel func()) {
	timer := time.AfterFunc(5*time.Second, cancel)
	defer timer.Stop()
	err := stream.CloseSend()
	for err == nil {
		_, err = stream.Recv()
	}
}

// recvError returns why a stream on which Send failed is dead: gRPC tells that to the receiver only.
func recvError(stream meshv1.Mesh_WatchClient, sendErr error) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return sendErr
}

func (c *Client) hello() *meshv1.Hello {
	s := c.store.Load()
	hello := &meshv1.Hello{AgentVersion: c.cfg.AgentVersion}
	if !c.resync {
		hello.Epoch, hello.Version = s.Epoch, s.Version
	}
	return hello
}

// take applies and enforces one update.
func (c *Client) take(ctx context.Context, u *meshv1.Update) error {
	next, err := c.store.Load().Apply(u, time.Now())
	if err != nil {
		return err
	}
	c.store.Swap(next)
	if err := c.cfg.Enforce(ctx, next); err != nil {
		return fmt.Errorf("enforce version %d: %w", next.Version, err)
	}
	c.enforced(next)
	select {
	case c.save <- struct{}{}:
	default:
	}
	return nil
}

func (c *Client) enforced(s *State) {
	c.note(func(st *Status) {
		st.Epoch, st.Enforced, st.EnforcedAt = s.Epoch, s.Version, time.Now()
		st.Latest = max(st.Latest, s.Version)
		st.LastNack = ""
	})
}

// saver writes the state file after updates, the newest state only, until save is closed.
func (c *Client) saver() {
	for range c.save {
		if c.cfg.StateFile == "" {
			continue
		}
		if err := saveState(c.cfg.StateFile, c.store.Load()); err != nil {
			c.cfg.Log.Error("the last good state was not kept", "file", c.cfg.StateFile, "err", err)
		}
	}
}
