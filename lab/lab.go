package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Options say what lab to make.
type Options struct {
	// Name tells labs on one machine apart; empty means "default".
	Name string
	// Manifests is a file or folder with the lab's objects. The controller keeps watching it.
	Manifests string
	// BinDir has the binaries agent, controller and sample; empty means the folder of the running one.
	BinDir string
	// TrustDomain of the mesh; empty means cluster.local.
	TrustDomain string
	// WithoutMesh makes nodes, pods, names and services only: no controller, no agents.
	WithoutMesh bool
	// Progress, if set, is called after each step.
	Progress func(Step)
	// AgentArgs and ControllerArgs are appended to the command lines.
	AgentArgs, ControllerArgs []string
}

// Step is one thing that Up has done.
type Step struct {
	Text string
	Took time.Duration
}

// Lab is a handle on a lab that exists. All its methods may be called at the same time, from several processes too:
// those that change the lab take turns.
type Lab struct {
	paths paths
}

// run is a change to a lab while its lock is held.
type run struct {
	paths
	state *state
}

// Up makes a lab and starts everything in it. If a step fails, what was made is removed again.
// Returns an error that wraps ErrManifest if the manifests make no lab, and ErrExists if the name is taken.
func Up(ctx context.Context, o Options) (*Lab, error) {
	o.Name = cmp.Or(o.Name, "default")
	s, objects, err := prepare(o)
	if err != nil {
		return nil, err
	}
	p := paths{o.Name}
	if err := claim(p); err != nil {
		return nil, err
	}
	unlock, err := lock(p)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := &run{paths: p, state: s}
	if err := r.up(ctx, objects, o.Progress); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %q: %w", o.Name, err), teardown(p))
	}
	return &Lab{p}, nil
}

// prepare checks everything that can be checked before anything is made.
func prepare(o Options) (*state, []*object, error) {
	if err := checkName(o.Name); err != nil {
		return nil, nil, err
	}
	if os.Geteuid() != 0 {
		return nil, nil, errors.New("a lab makes network namespaces, so it needs root")
	}
	manifests, err := filepath.Abs(o.Manifests)
	if err != nil {
		return nil, nil, err
	}
	bin, err := binDir(o.BinDir)
	if err != nil {
		return nil, nil, err
	}
	objects, err := readManifests(manifests)
	if err != nil {
		return nil, nil, err
	}
	waypoints, err := (paths{o.Name}).waypointObjects(objects, cmp.Or(o.TrustDomain, "cluster.local"))
	if err != nil {
		return nil, nil, err
	}
	pl, err := makePlan(append(objects, waypoints...), nil)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range pl.Nodes {
		if socket := (paths{o.Name}).agentSocket(n.Name); len(socket) > maxSocketPath {
			return nil, nil, fmt.Errorf("%w: Node %s: its name makes the path of its agent's socket too long: %s", ErrManifest, n.Name, socket)
		}
	}
	s := &state{
		Name: o.Name, Manifests: manifests, BinDir: bin, TrustDomain: cmp.Or(o.TrustDomain, "cluster.local"),
		WithoutMesh: o.WithoutMesh, Created: time.Now(), AgentArgs: o.AgentArgs, CtlArgs: o.ControllerArgs,
		Plan: pl, Running: map[string]bool{}, Processes: map[string][]Process{},
	}
	return s, objects, checkBinaries(s)
}

func binDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the binaries: %w", err)
	}
	return filepath.Dir(exe), nil
}

func checkBinaries(s *state) error {
	var want []string
	if !s.WithoutMesh {
		want = append(want, "agent", "controller")
	}
	for _, pod := range s.Plan.Pods {
		for _, c := range pod.Containers {
			if len(c.Command) == 0 && !slices.Contains(want, c.binary()) {
				want = append(want, c.binary())
			}
		}
	}
	for _, name := range want {
		if _, err := os.Stat(filepath.Join(s.BinDir, name)); err != nil {
			return fmt.Errorf("a lab runs Warren's own binaries, and %s is missing: %w", name, err)
		}
	}
	return nil
}

// claim makes the lab's folder, which is what makes its name taken.
func claim(p paths) error {
	for range makeDirTries {
		if err := makeDir(runRoot, 0o755); err != nil {
			return fmt.Errorf("lab %q: %w", p.name, err)
		}
		err := os.Mkdir(p.dir(), 0o755)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the last other lab has just gone down, and took the folder of all labs with it
		}
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("lab %q: %w", p.name, ErrExists)
		}
		return err
	}
	return fmt.Errorf("lab %q: somebody keeps removing %s", p.name, runRoot)
}

// makeDirTries is how often a folder is made anew that another lab's Down removes because it finds it empty.
const makeDirTries = 100

// makeDir makes a folder and those above it, even while other labs go down.
func makeDir(dir string, mode os.FileMode) error {
	var err error
	for range makeDirTries {
		if err = os.MkdirAll(dir, mode); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

// up makes everything, in order.
func (r *run) up(ctx context.Context, objects []*object, progress func(Step)) error {
	pl := r.state.Plan
	type step struct {
		text string
		do   func() error
	}
	steps := []step{
		{"folders", func() error { return r.makeFolders(objects) }},
		{fmt.Sprintf("network of %d nodes", len(pl.Nodes)), r.makeNetwork},
		{"DNS", func() error { return r.startDNS(ctx) }},
	}
	if !r.state.WithoutMesh {
		steps = append(steps, step{"controller", func() error { return r.startController(ctx) }}, step{"BPF file system", r.makePins})
		for _, n := range pl.Nodes {
			steps = append(steps, step{"agent of node " + n.Name, func() error { return r.startAgent(ctx, n.Name) }})
		}
	}
	steps = append(steps, step{"services", func() error { return syncVIPs(ctx, r.paths, pl) }})
	for _, pod := range pl.Pods {
		steps = append(steps, step{fmt.Sprintf("pod %s on %s", pod.FullName(), pod.Node), func() error { return r.makePod(ctx, pod) }})
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", step.text, err)
		}
		begin := time.Now()
		if err := step.do(); err != nil {
			return err
		}
		if progress != nil {
			progress(Step{step.text, time.Since(begin)})
		}
	}
	r.state.Complete = true
	return r.state.save(r.paths)
}

// makeFolders also writes the status of every pod: the controller then knows them all before the first one starts.
func (r *run) makeFolders(objects []*object) error {
	for _, dir := range []string{r.status(), r.added(), r.controllerState(), filepath.Dir(r.log("x")), filepath.Dir(r.netns("x"))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(r.controllerState(), 0o700); err != nil {
		return err
	}
	if err := r.state.save(r.paths); err != nil {
		return err
	}
	waypoints, err := r.waypointObjects(objects, r.state.TrustDomain)
	if err != nil {
		return err
	}
	if err := r.writeGenerated(waypoints); err != nil {
		return err
	}
	if err := writeImpliedNode(r.paths, r.state.Plan, objects); err != nil {
		return err
	}
	for _, pod := range r.state.Plan.Pods {
		if err := writePodStatus(r.paths, pod); err != nil {
			return err
		}
	}
	return syncServiceStatus(r.paths, r.state.Plan)
}

func (r *run) makeNetwork() error {
	if err := makeFabric(r.paths); err != nil {
		return err
	}
	pl := r.state.Plan
	for _, n := range pl.Nodes {
		if err := makeNode(r.paths, n); err != nil {
			return err
		}
	}
	for ns, host := range map[string]int{dnsNS: dnsHost, controllerNS: controllerHost} {
		if err := attach(r.paths, attachment{ns: ns, port: ns[1:], addrs: fabricAddrs(host)}, commonSysctls()); err != nil {
			return err
		}
		if err := connect(r.paths, ns, pl.Nodes, ""); err != nil {
			return err
		}
	}
	for _, n := range pl.Nodes {
		if err := connect(r.paths, nodeNS(n.Name), pl.Nodes, n.Name); err != nil {
			return err
		}
	}
	return nil
}

// makePins makes the folder that agents pin in.
func (r *run) makePins() error {
	if err := mountBPF(); err != nil {
		return err
	}
	if err := makeDir(r.pins(), 0o700); err != nil {
		return fmt.Errorf("make a place for pins: %w", err)
	}
	return nil
}
