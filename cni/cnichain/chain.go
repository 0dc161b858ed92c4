// Package cnichain keeps Warren's plug-in in a node's CNI chain: its file in the runtime's directory of plug-ins, and
// its element at the end of the first configuration, which is the one that a runtime uses. It owns the file
// warren-cni, the element of that type, and files whose name ends in "-warren.conflist"; of everything else it
// changes nothing.
//
// A conflist gets our element, and has its own text again, to the byte, when that is taken out. Beside a
// configuration of one plug-in, which has no list, and beside a symbolic link, a conflist is made that sorts right
// before it and contains it; so nothing that another program looks after is renamed or deleted.
//
// Whoever installed the main plug-in may rewrite its file whenever it likes: the directories are watched and the
// element is put back. If that happens again and again, two programs want different things, and neither would win:
// then we pause, longer each time, and say so.
//
// All writing is to a temporary file in the same directory, then a rename. The plug-in's file is there before the
// first configuration names it, and goes after the last one that did.
package cnichain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/warren-mesh/warren/cni/netconf"
)

// Config is where things are, as the agent sees them. All fields but Conf's are required.
type Config struct {
	ConfDir string       // the runtime's configurations: the host's /etc/cni/net.d
	BinDir  string       // the runtime's plug-ins: the host's /opt/cni/bin
	Plugin  string       // the plug-in's file that comes with the agent
	Conf    netconf.Conf // what the plug-in is told: paths as the host sees them
	Log     *slog.Logger
}

// State is where the chain stands.
type State string

const (
	Starting  State = "starting"
	Installed State = "installed"
	Waiting   State = "waiting for a main plug-in"
	Failed    State = "error"
	Removed   State = "removed"
)

// Status is the chain's state, and a sentence for a person.
type Status struct {
	State State
	Text  string
}

// pace are the chain's times.
type pace struct {
	settle   time.Duration // from a change to the look at it: a program writes several times
	rescan   time.Duration // for what was not noticed
	retry    time.Duration // after an error; doubled up to rescan
	window   time.Duration // in which repairs are counted
	most     int           // repairs in a window that are taken for a fight
	pause    time.Duration // after a fight; doubled up to maxPause
	maxPause time.Duration
}

func defaultPace() pace {
	return pace{
		settle: 250 * time.Millisecond, rescan: 30 * time.Second, retry: time.Second,
		window: time.Minute, most: 5, pause: 30 * time.Second, maxPause: 10 * time.Minute,
	}
}

// Chain is one node's chain.
type Chain struct {
	cfg   Config
	entry json.RawMessage
	pace  pace

	mu        sync.Mutex // of a look at the directories, and of what is below
	bin       binary
	status    Status
	removed   bool
	installed bool        // once: what is missing later was taken away
	repairs   []time.Time // in the window
	pause     time.Duration
	notBefore time.Time // the end of a pause
	failures  int       // in a row
}

// New checks cfg and returns a chain that does nothing until Run.
func New(cfg Config) (*Chain, error) {
	for field, path := range map[string]string{"ConfDir": cfg.ConfDir, "BinDir": cfg.BinDir, "Plugin": cfg.Plugin} {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("CNI chain: %s: %q is not an absolute path", field, path)
		}
	}
	entry, err := cfg.Conf.Entry()
	if err != nil {
		return nil, fmt.Errorf("CNI chain: %w", err)
	}
	return &Chain{
		cfg: cfg, entry: entry, pace: defaultPace(),
		bin:    binary{from: cfg.Plugin, dir: cfg.BinDir, name: netconf.Type},
		status: Status{State: Starting, Text: "the CNI chain was not looked at yet"},
	}, nil
}

// Status says where the chain stands.
func (c *Chain) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Run installs the plug-in and keeps it installed until ctx ends; then it stays. What goes wrong is in Status and the
// log, and is tried again: it returns nil.
func (c *Chain) Run(ctx context.Context) error {
	_ = c.makeDirs() // so that they can be watched; each look tries again, and says why it cannot
	w := c.watcher()
	if w.Watcher != nil {
		defer w.Close()
	}
	for {
		w.watch(c.cfg.ConfDir, c.cfg.BinDir)
		timer := time.NewTimer(c.look(time.Now()))
		if !c.await(ctx, w, timer) {
			return nil
		}
	}
}

// await returns when it is time to look again, or false when ctx ends.
func (c *Chain) await(ctx context.Context, w watcher, timer *time.Timer) bool {
	defer timer.Stop()
	hurried := false
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case err := <-w.errors():
			c.cfg.Log.Debug("watching the CNI chain", "err", err) // an overflow: look, as after an event
		case e := <-w.events():
			if isTemp(e.Name) {
				continue
			}
		}
		if !hurried {
			hurried = true
			timer.Reset(max(c.pace.settle, c.paused(time.Now())))
		}
	}
}

func (c *Chain) paused(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.notBefore.Sub(now)
}

// look brings the directories to where they should be, and returns when to look again.
func (c *Chain) look(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return c.pace.rescan
	}
	if left := c.notBefore.Sub(now); left > 0 {
		return left
	}
	p, err := c.install()
	if errors.Is(err, errChanged) {
		return c.pace.settle
	}
	if err != nil {
		c.failures++
		c.set(Status{State: Failed, Text: fmt.Sprintf("the CNI plug-in is not installed: %v", err)})
		return min(c.pace.retry<<min(c.failures-1, 10), c.pace.rescan)
	}
	c.failures = 0
	return c.judge(p, now)
}

// install does what the plan says. Caller holds mu.
func (c *Chain) install() (plan, error) {
	if err := c.makeDirs(); err != nil {
		return plan{}, err
	}
	copied, err := c.bin.install()
	if err != nil {
		return plan{}, err
	}
	root, err := os.OpenRoot(c.cfg.ConfDir)
	if err != nil {
		return plan{}, err
	}
	defer root.Close()
	if c.status.State == Starting {
		if err := sweep(root); err != nil {
			return plan{}, err
		}
	}
	dir, err := readDir(root)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", c.cfg.ConfDir, err)
	}
	p := planInstall(dir, c.entry)
	p.copied = copied
	return p, apply(root, p, dir)
}

func (c *Chain) makeDirs() error {
	return errors.Join(os.MkdirAll(c.cfg.BinDir, 0o755), os.MkdirAll(c.cfg.ConfDir, 0o755))
}

// judge says what came of a look, and when the next one is. Caller holds mu.
func (c *Chain) judge(p plan, now time.Time) time.Duration {
	c.repairs = slices.DeleteFunc(c.repairs, func(t time.Time) bool { return now.Sub(t) > c.pace.window })
	if c.installed && (p.copied || !p.nothingToDo()) {
		c.repairs = append(c.repairs, now)
	}
	c.installed = c.installed || p.target != ""
	where, undone := filepath.Join(c.cfg.ConfDir, p.at), filepath.Join(c.cfg.ConfDir, p.target)
	if p.copied {
		undone = filepath.Join(c.cfg.BinDir, netconf.Type)
	}
	switch {
	case len(c.repairs) >= c.pace.most:
		c.pause = min(max(2*c.pause, c.pace.pause), c.pace.maxPause)
		c.notBefore = now.Add(c.pause)
		c.set(Status{State: Failed, Text: fmt.Sprintf("another program keeps rewriting %s: it was repaired %d times within %s. "+
			"The next repair is in %s; until then new pods may start outside the mesh. Let that program leave other plug-ins "+
			"alone (Cilium: cni.exclusive=false)", undone, len(c.repairs), c.pace.window, c.pause)})
		return c.pause
	case p.target == "" && p.waiting:
		c.set(Status{State: Waiting, Text: fmt.Sprintf("%s has no CNI configuration yet: the cluster's network plug-in makes one", c.cfg.ConfDir)})
	case p.target == "":
		c.set(Status{State: Failed, Text: fmt.Sprintf("no configuration in %s can be chained to: %s", c.cfg.ConfDir, p.problem)})
	case p.problem != "":
		c.set(Status{State: Failed, Text: fmt.Sprintf("the plug-in is in %s, but a runtime may stop before it, at %s", where, p.problem)})
	default:
		c.set(Status{State: Installed, Text: "the plug-in is in " + where})
	}
	if len(c.repairs) == 0 {
		c.pause = 0
	}
	return c.pace.rescan
}

// set changes the status, and logs it if it is another. Caller holds mu.
func (c *Chain) set(s Status) {
	if s == c.status {
		return
	}
	c.status = s
	level := slog.LevelInfo
	if s.State == Failed {
		level = slog.LevelWarn
	}
	c.cfg.Log.Log(context.Background(), level, "CNI chain", "state", s.State, "reason", s.Text)
}

// Remove takes the plug-in out of every configuration and deletes it. A Run that goes on does not put it back. It can
// be called again after an error.
func (c *Chain) Remove() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = true
	err := c.takeOut()
	if err == nil {
		err = c.bin.remove() // not while a configuration still names it
	}
	if err != nil {
		err = fmt.Errorf("take the plug-in out of the CNI chain: %w", err)
		c.set(Status{State: Failed, Text: err.Error()})
		return err
	}
	c.set(Status{State: Removed, Text: "the plug-in was taken out of the CNI chain"})
	return nil
}

func (c *Chain) takeOut() error {
	root, err := os.OpenRoot(c.cfg.ConfDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	for range 5 { // another program may be writing
		var dir map[string]file
		if dir, err = readDir(root); err != nil {
			return err
		}
		p := planRemove(dir)
		if err = apply(root, p, dir); err == nil && p.problem != "" {
			err = errors.New(p.problem)
		}
		if !errors.Is(err, errChanged) {
			break
		}
	}
	return errors.Join(err, sweep(root))
}

// watcher is fsnotify's, or nothing where the node has no more inotify instances: then only the rescan is left.
type watcher struct{ *fsnotify.Watcher }

func (c *Chain) watcher() watcher {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		c.cfg.Log.Warn("the CNI chain is not watched, only looked at", "every", c.pace.rescan, "err", err)
		return watcher{}
	}
	return watcher{w}
}

// watch adds directories; one that was made anew is added again.
func (w watcher) watch(dirs ...string) {
	if w.Watcher == nil {
		return
	}
	for _, dir := range dirs {
		_ = w.Add(dir) // what cannot be watched is looked at
	}
}

func (w watcher) events() <-chan fsnotify.Event {
	if w.Watcher == nil {
		return nil
	}
	return w.Events
}

func (w watcher) errors() <-chan error {
	if w.Watcher == nil {
		return nil
	}
	return w.Errors
}
