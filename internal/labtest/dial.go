package labtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/api/adminv1"
)

// Dial connects from a pod, as an app in it would. The address is one: nobody looks names up.
func (m *Mesh) Dial(ctx context.Context, pod, address string) (net.Conn, error) {
	path, err := m.PodNetNS(pod)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	err = InNetNS(path, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return err
	})
	return conn, err
}

// ListenIn listens in a pod, as an app in it would.
func (m *Mesh) ListenIn(pod, address string) (net.Listener, error) {
	path, err := m.PodNetNS(pod)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	err = InNetNS(path, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// InNetNS runs f on a thread of its own, which is thrown away with the network namespace that it entered. Sockets that f
// makes stay there.
func InNetNS(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		file, err := os.Open(path)
		if err != nil {
			done <- err
			return
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// Client is an HTTP client in a pod, which takes any host for the address.
func (m *Mesh) Client(pod, address string) *http.Client {
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return m.Dial(ctx, pod, address) },
		MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64, DisableCompression: true,
	}
	m.tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// VIP is the first virtual address of a service ("namespace/name"), with a port.
func (m *Mesh) VIP(service string, port uint16) string {
	m.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := m.Admin(m.ControllerSocket()).Services(ctx, &adminv1.ListRequest{})
	if err != nil {
		m.tb.Fatal(err)
	}
	for _, s := range reply.GetServices() {
		if s.GetNamespace()+"/"+s.GetName() == service && len(s.GetVips()) > 0 {
			return net.JoinHostPort(s.GetVips()[0], fmt.Sprint(port))
		}
	}
	m.tb.Fatalf("service %s has no address", service)
	return ""
}
