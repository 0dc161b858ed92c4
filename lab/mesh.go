package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
)

const (
	// meshPatience bounds how long a controller or an agent may take to answer for the first time, and how long
	// a pod may take to be captured.
	meshPatience = 15 * time.Second
	// removePatience bounds how long an agent may take to forget a pod.
	removePatience = 5 * time.Second
	// pollInterval is how often a file or socket is looked for that nothing announces.
	pollInterval = 10 * time.Millisecond

	controllerPort = 15012
	metricsListen  = "127.0.0.1:15020"
)

// daemonEnv is deliberately small: a proxy of the user's environment, say, must not reach the mesh. What Go's own
// tools need to look inside a process passes.
func daemonEnv() []string {
	env := []string{systemPath, "HOME=/root"}
	for _, name := range []string{"GOCOVERDIR", "GODEBUG", "GOTRACEBACK", "GORACE"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func controllerAddress() string {
	return net.JoinHostPort(addrsOf(fabricAddrs(controllerHost))[0].String(), fmt.Sprint(controllerPort))
}

// startDNS starts the name server. It answers once this returns.
func (r *run) startDNS(ctx context.Context) error {
	if err := writeZone(r.paths, r.state.Plan); err != nil {
		return err
	}
	shim := shimSpec{NetNS: r.netns(dnsNS), Zone: r.zone()}
	return r.launch(ctx, dnsProcess, command{name: dnsProcess, cgroup: dnsNS, env: daemonEnv(), shim: shim})
}

// launch starts a process and records it under key.
func (r *run) launch(ctx context.Context, key string, c command) error {
	proc, err := c.start(ctx, r.paths)
	if err != nil {
		return err
	}
	return r.state.record(r.paths, key, proc)
}

// startController starts the controller and waits until it answers.
func (r *run) startController(ctx context.Context) error {
	s := r.state
	argv := []string{
		filepath.Join(s.BinDir, "controller"),
		"--manifests", r.added(), "--manifests", r.generated(), "--manifests", s.Manifests, "--status-manifests", r.status(),
		"--state-dir", r.controllerState(), "--listen", controllerAddress(),
		"--admin-socket", r.controllerSocket(), "--metrics-listen", metricsListen,
		"--trust-domain", s.TrustDomain,
	}
	shim := shimSpec{NetNS: r.netns(controllerNS), Argv: append(argv, s.CtlArgs...)}
	c := command{name: controllerProcess, cgroup: controllerNS, env: daemonEnv(), shim: shim}
	if err := r.launch(ctx, controllerProcess, c); err != nil {
		return err
	}
	return r.await(ctx, controllerProcess, func() bool {
		_, err := os.Stat(r.bundle())
		return err == nil && answers(r.controllerSocket())
	})
}

func (p paths) bundle() string { return filepath.Join(p.controllerState(), "bundle.pem") }

// startAgent starts a node's agent and waits until it answers. The node's join token is made once: an agent that
// starts again proves itself by what it kept in its state folder.
func (r *run) startAgent(ctx context.Context, node string) error {
	s, dir := r.state, r.node(node)
	token := filepath.Join(dir, "token")
	if _, err := os.Stat(token); err != nil {
		if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
			return fmt.Errorf("make join token: %w", err)
		}
		if err := r.makeToken(ctx, "node", node, token); err != nil {
			return err
		}
	}
	argv := []string{
		filepath.Join(s.BinDir, "agent"), "--node", node, "--controller", controllerAddress(),
		"--trust-bundle", r.bundle(), "--join-token-file", token, "--state-dir", filepath.Join(dir, "state"),
		"--socket", r.agentSocket(node), "--pin-dir", filepath.Join(r.pins(), node),
		"--metrics-listen", metricsListen, "--trust-domain", s.TrustDomain,
	}
	name := agentProcess(node)
	shim := shimSpec{NetNS: r.netns(nodeNS(node)), Argv: append(argv, s.AgentArgs...)}
	c := command{name: name, cgroup: nodeNS(node), env: daemonEnv(), shim: shim}
	if err := r.launch(ctx, name, c); err != nil {
		return err
	}
	return r.await(ctx, name, func() bool { return answers(r.agentSocket(node)) })
}

// makeToken makes a join token for a node, or for a waypoint's pod.
func (r *run) makeToken(ctx context.Context, kind, name, file string) error {
	ctx, cancel := context.WithTimeout(ctx, meshPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(r.state.BinDir, "controller"),
		"token", "create", "--"+kind, name, "--state-dir", r.controllerState())
	cmd.Env = daemonEnv()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("make join token for %s %s: %w: %s", kind, name, err, strings.TrimSpace(stderr.String()))
	}
	return writeFile(file, out, 0o600)
}

// answers says whether somebody accepts connections on a unix socket.
func answers(path string) bool {
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// await waits until a process that has just been started is ready, and gives up early if it ends.
func (r *run) await(ctx context.Context, key string, ready func() bool) error {
	procs := r.state.Processes[key]
	proc := procs[len(procs)-1]
	ctx, cancel := context.WithTimeout(ctx, meshPatience)
	defer cancel()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for !ready() {
		if !proc.Alive() {
			return fmt.Errorf("start %s: it ended at once; the end of its log:\n%s", key, tail(r.paths, proc.Name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start %s: not ready: %w; the end of its log:\n%s", key, ctx.Err(), tail(r.paths, proc.Name))
		case <-poll.C:
		}
	}
	return nil
}

// enrol tells a pod's agent about it, as a CNI plug-in does, and waits until the agent has captured it.
func (r *run) enrol(ctx context.Context, pod *Pod) error {
	if r.state.WithoutMesh || pod.HostNetwork {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, meshPatience)
	defer cancel()
	err := r.askAgent(pod.Node, func(client adminv1.PodsClient) error {
		_, err := client.Add(ctx, &adminv1.AddPodRequest{
			Uid: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Netns: r.netns(pod.netns()),
		}, grpc.WaitForReady(true))
		return err
	})
	if err != nil {
		return fmt.Errorf("pod %s: the agent of node %s did not take it: %s; the end of its log:\n%s",
			pod.FullName(), pod.Node, status.Convert(err).Message(), tail(r.paths, agentProcess(pod.Node)))
	}
	return nil
}

// retire makes a pod's agent forget it. An agent that does not run is none the worse: it finds out when it starts.
func (r *run) retire(ctx context.Context, pod *Pod) error {
	if r.state.WithoutMesh || pod.HostNetwork || !r.alive(agentProcess(pod.Node)) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	err := r.askAgent(pod.Node, func(client adminv1.PodsClient) error {
		_, err := client.Remove(ctx, &adminv1.RemovePodRequest{Uid: pod.UID})
		return err
	})
	if err != nil {
		return fmt.Errorf("pod %s: the agent of node %s did not let go of it: %s", pod.FullName(), pod.Node, status.Convert(err).Message())
	}
	return nil
}

func (r *run) askAgent(node string, ask func(adminv1.PodsClient) error) error {
	conn, err := grpc.NewClient("unix://"+r.agentSocket(node), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the answer is what counts
	return ask(adminv1.NewPodsClient(conn))
}

// alive says whether the last process recorded under key runs.
func (r *run) alive(key string) bool {
	procs := r.state.Processes[key]
	return len(procs) > 0 && procs[len(procs)-1].Alive()
}

// mountBPF makes sure that there is a BPF file system to pin in. It stays mounted: it is the machine's, not the lab's.
func mountBPF() error {
	var st unix.Statfs_t
	if err := unix.Statfs(bpfRoot, &st); err != nil {
		return fmt.Errorf("look at %s: %w", bpfRoot, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpfRoot, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", bpfRoot, err)
	}
	return nil
}
