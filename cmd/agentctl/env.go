package main

import (
	"context"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/term"
)

// env is everything that agentctl knows of the outside. No other file opens, dials or reads a clock.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// dial connects to the unix socket at an absolute path.
	dial func(ctx context.Context, path string) (net.Conn, error)
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
		isTerminal: func(w io.Writer) bool {
			f, ok := w.(*os.File)
			return ok && term.IsTerminal(int(f.Fd()))
		},
		now:     time.Now,
		root:    os.DirFS("/"),
		version: buildVersion(),
	}
}

// buildVersion is the module version that the Go tool recorded, or "(devel)".
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
