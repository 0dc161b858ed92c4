package controller

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestAdminSocketIsItsOwnersOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	l, err := listenAdmin(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = conn.Close()
		}
		accepted <- err
	}()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := <-accepted; err != nil {
		t.Errorf("the owner's own connection: %v", err)
	}
	if _, err := listenAdmin(path, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a second controller took the socket of one that runs")
	}
}

func TestOnlyRootAndTheOwnerMayAdminister(t *testing.T) {
	for _, c := range []struct {
		uid  uint32
		own  int
		want bool
	}{{0, 65532, true}, {65532, 65532, true}, {1000, 65532, false}, {1000, 0, false}} {
		if got := mayAdminister(c.uid, c.own); got != c.want {
			t.Errorf("uid %d of a controller of uid %d: %v", c.uid, c.own, got)
		}
	}
}

func TestOnlyNamedMethodsAreAllowed(t *testing.T) {
	for method, want := range map[string]bool{
		"/warren.mesh.v1.Mesh/Watch": true, "/warren.ca.v1.CA/AttestNode": true, "/warren.admin.v1.Relay/Connect": true,
		"warren.mesh.v1.Mesh/Watch": false, "/warren.mesh.v1.Mesh/watch": false, "/warren.mesh.v1.Mesh/Watch/": false,
		"/warren.admin.v1.Admin/Status": false, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": false, "": false,
	} {
		if got := allowed(method); got != want {
			t.Errorf("%q: %v, want %v", method, got, want)
		}
	}
}
