package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/internal/profile"
)

// process is the controller.
type process struct {
	cmd              *exec.Cmd
	address, metrics string
	profiles         string // its folder for profiles, "" for none
	log              string
}

// start runs the controller of a folder of binaries on the manifests. It returns its CA, with which agents' certificates
// are made.
func start(ctx context.Context, dir, bin string, w *world, profiles string) (*process, *ca.Authority, error) {
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(filepath.Join(state, "ca"), 0o700); err != nil {
		return nil, nil, err
	}
	authority, err := ca.Open(ca.Config{TrustDomain: "cluster.local", StateDir: filepath.Join(state, "ca"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	p := &process{log: filepath.Join(dir, "controller.log")}
	if p.address, err = freePort(); err == nil {
		p.metrics, err = freePort()
	}
	if err != nil {
		return nil, nil, err
	}
	args := []string{"--manifests=" + w.dir, "--state-dir=" + state, "--listen=" + p.address, "--metrics-listen=" + p.metrics,
		"--admin-socket=" + filepath.Join(dir, "admin.sock")}
	if profiles != "" {
		p.profiles = profiles
		args = append(args, "--profile-dir="+profiles)
	}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	p.cmd = exec.CommandContext(ctx, filepath.Join(bin, "controller"), args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	return p, authority, p.cmd.Start()
}

// freePort is an address that nobody listens at now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// ready waits until the manifests were read and published.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.metrics+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return p.explain(errors.New("it does not become ready"))
		case <-tick.C:
		}
	}
}

// explain adds the end of the controller's log to an error.
func (p *process) explain(err error) error {
	text, _ := os.ReadFile(p.log) // without one the error says enough
	return fmt.Errorf("the controller: %w; its log ends with\n%s", err, text[max(0, len(text)-4000):])
}

// stop ends the controller.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// profiled runs f, and keeps a profile of what the controller does in its first seconds and of its memory after it.
func (p *process) profiled(ctx context.Context, name string, f func() error) error {
	if p.profiles == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() { done <- p.profile(ctx, name, "cpu 10s") }()
	err := f()
	return errors.Join(err, <-done, p.profile(ctx, name, "heap"))
}

func (p *process) profile(ctx context.Context, name, what string) error {
	text, err := profile.Fetch(ctx, p.profiles, p.cmd.Process.Pid, what)
	if err != nil {
		return err
	}
	kind, _, _ := strings.Cut(what, " ")
	name = strings.ReplaceAll(name, " ", "-") + "." + kind + ".pprof"
	return os.WriteFile(filepath.Join(p.profiles, name), text, 0o644)
}
