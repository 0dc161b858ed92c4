package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/warren-mesh/warren/api/adminv1"
)

// socket serves the admin socket in a directory that everybody may enter.
func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "run", "agent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, New(Config{})) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

// connectAs connects as another user, on a thread that is thrown away with its credentials.
func connectAs(uid int, path string) (fd int, err error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				err = errno
			} else {
				err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			}
		}
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}

func TestOnlyRootOpensTheAdminSocket(t *testing.T) {
	path := socket(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %o, want 600", info.Mode().Perm())
	}
	const nobody = 65534
	if fd, err := connectAs(nobody, path); !errors.Is(err, unix.EACCES) {
		t.Errorf("nobody's connect: %v, want %v", err, unix.EACCES)
	} else {
		unix.Close(fd)
	}
	// Even if somebody changed the mode.
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for uid, dropped := range map[int]bool{nobody: true, 0: false} {
		fd, err := connectAs(uid, path)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "admin")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(3 * time.Second))
		n, err := c.Read(make([]byte, 1)) // a server's HTTP/2 begins to speak by itself
		if got := n == 0 && !os.IsTimeout(err); got != dropped {
			t.Errorf("uid %d: dropped is %v (%v), want %v", uid, got, err, dropped)
		}
		if dropped && !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("uid %d: %v", uid, err)
		}
		c.Close()
	}
}

func TestPodsAddRefusesWhatIsNoPod(t *testing.T) {
	channel, err := grpc.NewClient("unix://"+socket(t), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer channel.Close()
	pods := adminv1.NewPodsClient(channel)
	for name, c := range map[string]struct {
		change func(*adminv1.AddPodRequest)
		field  string
	}{
		"no uid":               {func(q *adminv1.AddPodRequest) { q.Uid = "" }, "uid"},
		"the agent's own uid":  {func(q *adminv1.AddPodRequest) { q.Uid = "node/self" }, "uid"},
		"no namespace":         {func(q *adminv1.AddPodRequest) { q.Namespace = "" }, "namespace"},
		"a long name":          {func(q *adminv1.AddPodRequest) { q.Name = strings.Repeat("x", 513) }, "name"},
		"a line break":         {func(q *adminv1.AddPodRequest) { q.Name = "web\nlevel=ERROR" }, "name"},
		"an escape":            {func(q *adminv1.AddPodRequest) { q.Namespace = "\x1b[2J" }, "namespace"},
		"text direction":       {func(q *adminv1.AddPodRequest) { q.Name = "\u202ebew" }, "name"},
		"no network namespace": {func(q *adminv1.AddPodRequest) { q.Netns = "" }, "netns"},
		"a relative path":      {func(q *adminv1.AddPodRequest) { q.Netns = "../netns/web" }, "netns"},
	} {
		q := &adminv1.AddPodRequest{Uid: "u-1", Namespace: "shop", Name: "web", Netns: "/run/netns/web"}
		c.change(q)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := pods.Add(ctx, q)
		cancel()
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), c.field+": ") {
			t.Errorf("%s: %v, want InvalidArgument of %s", name, err, c.field)
		}
		if strings.ContainsFunc(status.Convert(err).Message(), func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%s: the error is not printable: %q", name, err)
		}
	}
}
