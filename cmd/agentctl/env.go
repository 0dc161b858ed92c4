package main

import (
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/warren-mesh/warren/internal/cluster"
	"github.com/warren-mesh/warren/internal/version"
)

// env is everything that agentctl knows of the outside. No other file opens, dials or reads a clock.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// dial connects to the unix socket at an absolute path.
	dial func(ctx context.Context, path string) (net.Conn, error)
	// openCluster reads a kubeconfig.
	openCluster func(cluster.Target) (*cluster.Cluster, error)
	// readFile reads a file that the command line names, and create makes one that must not be there yet.
	readFile func(name string) ([]byte, error)
	create   func(name string) (io.WriteCloser, error)
	// isTerminal says whether what is written to w is read by a person.
	isTerminal func(w io.Writer) bool
	now        func() time.Time
	// root is the machine's file system, without the leading slash.
	root fs.FS
	// version is that of this binary.
	version string
}

// systemEnv is the env of a real process.
func systemEnv() env {
	return env{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		getenv: os.Getenv,
		dial: func(ctx context.Context, path string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		openCluster: cluster.Open,
		readFile:    os.ReadFile,
		create: func(name string) (io.WriteCloser, error) {
			return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		},
		isTerminal: func(w io.Writer) bool {
			f, ok := w.(*os.File)
			return ok && term.IsTerminal(int(f.Fd()))
		},
		now:     time.Now,
		root:    os.DirFS("/"),
		version: version.String(),
	}
}
