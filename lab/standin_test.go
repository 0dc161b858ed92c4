package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
)

// What the lab owes an agent and a controller (flags, files, order of calls) is tested with stand-ins: this test binary
// under their names. What they do with it is for their own tests and internal/meshtest.

// standInBin is a folder with the sample app, and with this binary as agent and controller.
func standInBin(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	links := map[string]string{"agent": exe, "controller": exe, "sample": filepath.Join(os.Getenv("WARREN_TEST_BIN"), "sample")}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// standIn runs this binary as an agent or a controller if that is what it was started as.
func standIn(name string, args []string) bool {
	run := map[string]func([]string) error{"agent": agentStandIn, "controller": controllerStandIn}[name]
	if run == nil {
		return false
	}
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	return true
}

func controllerStandIn(args []string) error {
	f := flag.NewFlagSet("controller", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	token := len(args) > 1 && args[0] == "token" && args[1] == "create"
	if token {
		args = args[2:]
	}
	for _, name := range []string{"manifests", "status-manifests", "metrics-listen", "trust-domain"} {
		f.String(name, "", "")
	}
	stateDir, listen, socket, node := f.String("state-dir", "", ""), f.String("listen", "", ""), f.String("admin-socket", "", ""), f.String("node", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if token {
		fmt.Println("token-for-" + *node)
		return nil
	}
	l, err := net.Listen("tcp", *listen) // an address that only its own namespace has
	if err != nil {
		return err
	}
	defer l.Close()
	if err := os.WriteFile(filepath.Join(*stateDir, "bundle.pem"), []byte("roots"), 0o644); err != nil {
		return err
	}
	return serveUntilTold(*socket, grpc.NewServer())
}

// agentStandIn notes in calls, beside its state, what it is asked.
func agentStandIn(args []string) error {
	f := flag.NewFlagSet("agent", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for _, name := range []string{"pin-dir", "metrics-listen", "trust-domain"} {
		f.String(name, "", "")
	}
	node, controller, socket, stateDir := f.String("node", "", ""), f.String("controller", "", ""), f.String("socket", "", ""), f.String("state-dir", "", "")
	bundle, token, fail := f.String("trust-bundle", "", ""), f.String("join-token-file", "", ""), f.String("fail", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *fail == "start" {
		return errors.New("cannot load the capture")
	}
	if text, err := os.ReadFile(*token); err != nil || strings.TrimSpace(string(text)) != "token-for-"+*node {
		return fmt.Errorf("join token %q, %v", text, err)
	}
	if _, err := os.ReadFile(*bundle); err != nil {
		return err
	}
	conn, err := net.Dial("tcp", *controller)
	if err != nil {
		return err
	}
	defer conn.Close()
	s := grpc.NewServer()
	adminv1.RegisterPodsServer(s, &podsStandIn{calls: filepath.Join(*stateDir, "calls"), refuse: *fail == "add"})
	return serveUntilTold(*socket, s)
}

func serveUntilTold(socket string, s *grpc.Server) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

type podsStandIn struct {
	adminv1.UnimplementedPodsServer
	calls  string
	refuse bool
}

func (p *podsStandIn) note(text string) error {
	f, err := os.OpenFile(p.calls, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, text)
	return errors.Join(err, f.Close())
}

func (p *podsStandIn) Add(_ context.Context, r *adminv1.AddPodRequest) (*adminv1.AddPodReply, error) {
	if p.refuse {
		return nil, status.Error(codes.Internal, "no room for "+r.Name)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.Netns, &st); err != nil || st.Type != unix.NSFS_MAGIC {
		return nil, status.Errorf(codes.InvalidArgument, "%s is no network namespace: %v", r.Netns, err)
	}
	// The pod's log exists once its process was started, which must not be before this returns.
	lab := filepath.Dir(filepath.Dir(r.Netns))
	log := filepath.Join(lab, "logs", r.Namespace+"_"+r.Name+".log")
	if _, err := os.Stat(log); err == nil {
		return nil, status.Error(codes.FailedPrecondition, "the pod runs already")
	}
	overlay, err := os.ReadFile(filepath.Join(lab, "status", r.Namespace+"_"+r.Name+".yaml"))
	if err != nil || !strings.Contains(string(overlay), r.Uid) {
		return nil, status.Errorf(codes.FailedPrecondition, "status says %q, %v; want uid %s", overlay, err, r.Uid)
	}
	return &adminv1.AddPodReply{State: "enrolled"}, p.note("add " + r.Namespace + "/" + r.Name)
}

func (p *podsStandIn) Remove(_ context.Context, r *adminv1.RemovePodRequest) (*adminv1.RemovePodReply, error) {
	return &adminv1.RemovePodReply{}, p.note("remove " + r.Uid)
}
