package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/cni/netconf"
	"github.com/warren-mesh/warren/internal/nettest"
)

// debianPlugins is where Debian's containernetworking-plugins are.
const debianPlugins = "/usr/lib/cni"

var pluginDir string // with the compiled plug-in

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	var err error
	if pluginDir, err = os.MkdirTemp("", "warren-cni-"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(pluginDir)
	out, err := exec.Command("go", "build", "-o", filepath.Join(pluginDir, netconf.Type), "../cmd/cni").CombinedOutput()
	if err != nil {
		fmt.Printf("build the plug-in: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// kubelet starts and ends pods with libcni, as a container runtime does: Debian's ptp makes the network, ours
// follows.
type kubelet struct {
	host   *nettest.NS
	socket string
	conf   netconf.Conf
	list   string // the CNI version and what else stands at the top
	dir    string
}

func newKubelet(t *testing.T) *kubelet {
	t.Helper()
	if _, err := os.Stat(filepath.Join(debianPlugins, "ptp")); err != nil {
		t.Fatalf("no CNI plug-ins (apt-get install containernetworking-plugins): %v", err)
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	return &kubelet{host: nettest.New(t), socket: socket, conf: netconf.Conf{Socket: socket}, list: `"cniVersion":"1.0.0"`, dir: dir}
}

// sandbox is one pod's network.
type sandbox struct {
	*kubelet
	t    *testing.T
	ns   *nettest.NS
	args [][2]string
}

func (k *kubelet) sandbox(t *testing.T, namespace, name string) *sandbox {
	t.Helper()
	return &sandbox{kubelet: k, t: t, ns: nettest.New(t), args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", namespace}, {"K8S_POD_NAME", name},
		{"K8S_POD_INFRA_CONTAINER_ID", "c-" + name}, {"K8S_POD_UID", "uid-" + name},
	}}
}

func (s *sandbox) chain() (*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) {
	s.t.Helper()
	entry, err := s.conf.Entry()
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, `{%s,"name":"pods","plugins":[
		{"type":"ptp","ipam":{"type":"host-local","dataDir":%q,"subnet":"10.77.0.0/24"}}, %s]}`, s.list, filepath.Join(s.dir, "ipam"), entry))
	if err != nil {
		s.t.Fatal(err)
	}
	cfg := libcni.NewCNIConfigWithCacheDir([]string{pluginDir, debianPlugins}, filepath.Join(s.dir, "cache"), nil)
	id := s.args[3][1]
	return cfg, list, &libcni.RuntimeConf{ContainerID: id, NetNS: s.ns.Path, IfName: "eth0", Args: s.args}
}

func (s *sandbox) add() (result types.Result, err error) {
	cfg, list, rt := s.chain()
	err = s.host.Run(func() (err error) {
		result, err = cfg.AddNetworkList(context.Background(), list, rt)
		return err
	})
	return result, err
}

func (s *sandbox) check() error {
	cfg, list, rt := s.chain()
	return s.host.Run(func() error { return cfg.CheckNetworkList(context.Background(), list, rt) })
}

// del ends the sandbox; without a namespace it is one that ended already.
func (s *sandbox) del(gone bool) error {
	cfg, list, rt := s.chain()
	if gone {
		rt.NetNS = ""
	}
	return s.host.Run(func() error { return cfg.DelNetworkList(context.Background(), list, rt) })
}

// hasNetwork tells whether the pod has its interface.
func (s *sandbox) hasNetwork() bool {
	return s.ns.Run(func() error { _, err := netlink.LinkByName("eth0"); return err }) == nil
}

// fakeAgent is an agent as far as its socket.
type fakeAgent struct {
	adminv1.UnimplementedPodsServer
	adminv1.UnimplementedAdminServer
	onAdd func(context.Context, *adminv1.AddPodRequest) (string, error)
	pods  []*adminv1.PodStatus

	mu      sync.Mutex
	added   []*adminv1.AddPodRequest
	removed []string
}

func (a *fakeAgent) Add(ctx context.Context, q *adminv1.AddPodRequest) (*adminv1.AddPodReply, error) {
	a.mu.Lock()
	a.added = append(a.added, q)
	a.mu.Unlock()
	if a.onAdd == nil {
		return &adminv1.AddPodReply{State: "enrolled"}, nil
	}
	state, err := a.onAdd(ctx, q)
	return &adminv1.AddPodReply{State: state}, err
}

func (a *fakeAgent) Remove(_ context.Context, q *adminv1.RemovePodRequest) (*adminv1.RemovePodReply, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removed = append(a.removed, q.Uid)
	return &adminv1.RemovePodReply{}, nil
}

func (a *fakeAgent) Status(context.Context, *adminv1.StatusRequest) (*adminv1.StatusReply, error) {
	return &adminv1.StatusReply{Nodes: []*adminv1.NodeStatus{{Node: "n1", Pods: a.pods}}}, nil
}

// serve serves on the kubelet's socket until the test ends, or stop is called.
func (a *fakeAgent) serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	l := listen(t, socket)
	srv := grpc.NewServer()
	adminv1.RegisterPodsServer(srv, a)
	adminv1.RegisterAdminServer(srv, a)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	stop = sync.OnceFunc(func() {
		srv.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func listen(t *testing.T, socket string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// plugin runs the compiled plug-in by itself, in a namespace of the host, and returns what it writes.
func plugin(t *testing.T, command, stdin string, env map[string]string) (stdout string, failure *types.Error) {
	t.Helper()
	cmd := exec.Command(filepath.Join(pluginDir, netconf.Type))
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_IFNAME=eth0", "CNI_PATH=" + pluginDir}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = in.Write([]byte(stdin)); in.Close() }()
	out, err := cmd.Output()
	if err == nil {
		return string(out), nil
	}
	failure = &types.Error{}
	if jerr := json.Unmarshal(out, failure); jerr != nil || failure.Msg == "" {
		t.Fatalf("%s: %v, and no error that a runtime can read: %q", command, err, out)
	}
	return string(out), failure
}
