// Package bpf is the door to the kernel: it loads, pins and drives the programs of capture.c, and is the only
// package that knows their maps.
//
// A pod is captured through a [Slot]. Its whole life is three states: pending (every connection is refused) is
// written first, enrolled (ztunnel serves) last, unmanaged when it leaves. Maps and links are pinned, so a pod
// stays captured while no agent runs, and then its connections are refused (or pass, if its namespace says so). [Capture.Hold]
// has them wait for the next agent for a while.
//
// The minimum kernel is 5.15.
package bpf

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// abiVersion names the layout of the pinned maps. A change to a shared struct or a map's type needs a new one.
const abiVersion = "v3"

// ErrInUse is returned by Open if another process drives the same pins.
var ErrInUse = errors.New("pins are in use by another agent")

// Config says where the programs live.
type Config struct {
	// PinDir is a directory on a bpffs, this agent's own. It is created.
	PinDir string
	// CgroupRoot is the cgroup v2 directory whose processes are captured: the root of the hierarchy.
	CgroupRoot string
	Log        *slog.Logger
}

// Capture owns the programs and maps. Its methods may be called from any goroutine.
type Capture struct {
	log    *slog.Logger
	dir    string // PinDir/abiVersion
	cgroup string // the hierarchy's root
	lock   *os.File
	spec   *ebpf.CollectionSpec
	progs  *ebpf.Collection
	maps   captureMaps
	shared map[string]*ebpf.Map // maps by name, for each pod's copy of steer
	// unreadable is why the programs cannot tell processes apart, nil if they can.
	unreadable error

	mu           sync.Mutex
	slots        map[uint64]*Slot // by netns cookie
	used         map[uint32]bool  // slot indexes
	generation   uint64           // of the permits that count
	accelerating bool             // the programs that do it are there
	// unaccelerated is why they cannot be, nil if they can or nobody asked for it.
	unaccelerated error
}

// Open loads the programs and attaches them, or takes over those that an earlier agent pinned: then their
// maps stay, so pods stay captured, and only the programs are replaced, each atomically.
//
// Returns ErrInUse if another process holds the pins, and an error that wraps ebpf.ErrMapIncompatible if the
// pins have another layout. On any error the node is as it was.
func Open(cfg Config) (*Capture, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the locked-memory limit: %w", err)
	}
	if err := ensureBPFFS(cfg.PinDir); err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.PinDir)
	if err != nil {
		return nil, err
	}
	c := &Capture{
		log: cfg.Log, lock: lock, dir: filepath.Join(cfg.PinDir, abiVersion), cgroup: cfg.CgroupRoot,
		slots: map[uint64]*Slot{}, used: map[uint32]bool{},
	}
	if err := c.load(cfg); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open pin directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %s", ErrInUse, dir)
	}
	return f, nil
}

// load is a transaction: everything new is made in a directory aside and renamed into place last.
func (c *Capture) load(cfg Config) error {
	spec, err := loadCapture()
	if err != nil {
		return fmt.Errorf("read embedded programs: %w", err)
	}
	c.spec = spec
	if _, err := os.Stat(c.dir); err == nil {
		return c.takeOver(cfg)
	}
	aside, err := os.MkdirTemp(cfg.PinDir, "new")
	if err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	defer os.RemoveAll(aside) // gone already if it was renamed
	if err := c.create(cfg, aside); err != nil {
		return err
	}
	if err := os.Rename(aside, c.dir); err != nil {
		return fmt.Errorf("publish pins: %w", err)
	}
	return nil
}

func (c *Capture) create(cfg Config, dir string) error {
	for _, sub := range []string{"maps", "links", "steer"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("make pin directory: %w", err)
		}
	}
	if err := c.loadPrograms(nil); err != nil {
		return err
	}
	if err := c.setGeneration(1); err != nil { // 0 is none's
		return err
	}
	for name, m := range c.shared {
		if err := m.Pin(mapPin(dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for name := range hooks {
		if err := c.attachHook(cfg.CgroupRoot, filepath.Join(dir, "links"), name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Capture) takeOver(cfg Config) error {
	pinned := map[string]*ebpf.Map{}
	defer func() {
		for _, m := range pinned {
			m.Close()
		}
	}()
	for name, spec := range c.spec.Maps {
		if !isShared(name) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(mapPin(c.dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue // of an agent that had none: made anew
		}
		if err != nil {
			return fmt.Errorf("take over pinned map %s: %w", name, err)
		}
		pinned[name] = m
		if err := spec.Compatible(m); err != nil {
			return fmt.Errorf("take over pinned map %s: %w (pinned by another version; to start anew, drain the node and remove %s)", name, err, c.dir)
		}
	}
	if err := c.loadPrograms(pinned); err != nil {
		return err
	}
	err := errors.Join(c.pinNew(pinned), c.adoptSlots(), c.adoptGeneration())
	if err == nil {
		err = c.replaceHooks(cfg.CgroupRoot)
	}
	if err != nil {
		for name, m := range c.shared {
			if pinned[name] == nil {
				_ = m.Unpin()
			}
		}
	}
	return err
}

// pinNew pins the maps that the earlier agent had not.
func (c *Capture) pinNew(pinned map[string]*ebpf.Map) error {
	for name, m := range c.shared {
		if pinned[name] != nil {
			continue
		}
		if err := m.Pin(mapPin(c.dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

func mapPin(dir, name string) string { return filepath.Join(dir, "maps", name) }

// isShared tells a map of ours from the sections that hold a program's own variables.
func isShared(mapName string) bool { return mapName[0] != '.' }

// loadPrograms loads everything but steer, which is loaded once a pod, and what is not always needed, with `pinned` in place
// of new maps.
func (c *Capture) loadPrograms(pinned map[string]*ebpf.Map) error {
	progs, err := c.loadCollection(pinned, true)
	if err != nil {
		// Capture does not depend on knowing the kubelet: without, its probes are connections like any.
		var second error
		if progs, second = c.loadCollection(pinned, false); second != nil {
			return fmt.Errorf("load capture programs: %w", second)
		}
		c.unreadable = err
	}
	c.progs = progs
	c.shared = map[string]*ebpf.Map{}
	for name, m := range progs.Maps {
		if isShared(name) {
			c.shared[name] = m
		}
	}
	c.maps = captureMaps{
		Counters: c.shared[captureMapCounters], Dialled: c.shared[captureMapDialled],
		Kubelets: c.shared[captureMapKubelets], Probes: c.shared[captureMapProbes],
		Listeners: c.shared[captureMapListeners], Origins: c.shared[captureMapOrigins],
		OwnAddrs: c.shared[captureMapOwnAddrs], OwnSockets: c.shared[captureMapOwnSockets],
		Peers: c.shared[captureMapPeers], Pods: c.shared[captureMapPods], Slots: c.shared[captureMapSlots],
		Permits: c.shared[captureMapPermits], Generation: c.shared[captureMapGeneration],
		Directs: c.shared[captureMapDirects], DirectOpen: c.shared[captureMapDirectOpen],
		DirectEvents: c.shared[captureMapDirectEvents],
		Lanes:        c.shared[captureMapLanes], Fast: c.shared[captureMapFast],
	}
	return nil
}

// loadCollection loads the programs, with or without their reading which process connects.
func (c *Capture) loadCollection(pinned map[string]*ebpf.Map, readsTasks bool) (*ebpf.Collection, error) {
	spec := c.spec.Copy()
	delete(spec.Programs, steerProgram)
	delete(spec.Programs, holdProgram)
	delete(spec.Programs, accelerateProgram)
	delete(spec.Programs, overtakeProgram)
	delete(spec.Programs, unreadProgram)
	if !readsTasks {
		if err := spec.Variables["reads_tasks"].Set(uint32(0)); err != nil {
			return nil, err
		}
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: pinned})
}

const steerProgram = "steer"

// loadAlone loads one program with a variable of its own, on the maps that all share.
func (c *Capture) loadAlone(program, variable string, value any) (*ebpf.Collection, error) {
	spec := c.only(program)
	if err := spec.Variables[variable].Set(value); err != nil {
		return nil, fmt.Errorf("set %s of %s: %w", variable, program, err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: c.shared})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", program, err)
	}
	return coll, nil
}

// only is the specification without any other programs.
func (c *Capture) only(programs ...string) *ebpf.CollectionSpec {
	spec := c.spec.Copy()
	for name := range spec.Programs {
		if !slices.Contains(programs, name) {
			delete(spec.Programs, name)
		}
	}
	return spec
}

// RetireOthers removes what agents with another map layout pinned beside this one.
func (c *Capture) RetireOthers() error {
	entries, err := os.ReadDir(filepath.Dir(c.dir))
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		if e.Name() != abiVersion {
			if err := os.RemoveAll(filepath.Join(filepath.Dir(c.dir), e.Name())); err != nil {
				return fmt.Errorf("retire pins %s: %w", e.Name(), err)
			}
		}
	}
	return nil
}

// Close releases the process's hold. Pods stay captured: the pins live on.
func (c *Capture) Close() error {
	if c.progs != nil {
		c.progs.Close()
	}
	return c.lock.Close()
}

// Remove detaches everything that was pinned under pinDir: pods are as if there had never been a mesh.
// Removing what is not there is not an error. Returns ErrInUse while an agent runs, and one that wraps ErrUnread if a
// connection would lose bytes.
func Remove(pinDir string) error {
	if _, err := os.Stat(pinDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := lockDir(pinDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := letRead(filepath.Join(pinDir, abiVersion)); err != nil {
		return err
	}
	if err := os.RemoveAll(pinDir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
