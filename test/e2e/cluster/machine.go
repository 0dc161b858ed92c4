package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// stateFile marks a directory as a cluster's, and says what it was made of.
const stateFile = "cluster.json"

// Binaries returns the directory of Kubernetes' binaries that hack/e2e-binaries.sh has built for the module that the
// process runs in, or an error that says how to build them. WARREN_E2E_BIN overrides it.
func Binaries(ctx context.Context) (string, error) {
	if dir := os.Getenv("WARREN_E2E_BIN"); dir != "" {
		return dir, nil
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module's root: %w", err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(strings.TrimSpace(string(root)), "hack", "e2e-binaries.sh"), "--where")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s (%w)", strings.TrimSpace(stderr.String()), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// checkMachine names everything that is missing, at once.
func (cfg *Config) checkMachine() error {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root, to make namespaces and cgroups")
	}
	for _, dir := range []string{"/etc", "/opt", "/var", "/run"} {
		if strings.HasPrefix(cfg.Dir+"/", dir+"/") {
			missing = append(missing, fmt.Sprintf("a directory outside %s, which nodes have on their own: %s is in it", dir, cfg.Dir))
		}
	}
	for _, name := range []string{"kube", "etcd"} {
		if _, err := os.Stat(filepath.Join(cfg.BinDir, name)); err != nil {
			missing = append(missing, fmt.Sprintf("the binary %s (make e2e-binaries): %v", name, err))
		}
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "nsenter", "unshare", "nft", "iptables"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, fmt.Sprintf("%s (hack/packages.txt; make deps)", name))
		}
	}
	for _, name := range []string{"ptp", "bridge", "host-local", "portmap", "loopback"} {
		if _, err := os.Stat(filepath.Join(cniPluginDir, name)); err != nil {
			missing = append(missing, fmt.Sprintf("the CNI plug-in %s (Debian's containernetworking-plugins; make deps)", name))
		}
	}
	for _, archive := range cfg.Images {
		if _, err := os.Stat(archive); err != nil {
			missing = append(missing, "the image archive "+archive)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this machine lacks:\n  %s", strings.Join(missing, "\n  "))
	}
	return nil
}

// acquire makes this process the cluster's owner and removes what a dead predecessor left.
func (c *Cluster) acquire() error {
	if err := c.takeLock(); err != nil {
		return err
	}
	if old, err := Open(c.cfg.Name); err == nil && old.cfg.Keep && old.cgroups.populated(".") {
		c.release()
		return errors.New("it is up, and was made to be kept: bring it down first")
	}
	ctx, cancel := context.WithTimeout(context.Background(), sweepTimeout)
	defer cancel()
	if err := errors.Join(c.removeAll(ctx), c.removeDir()); err != nil {
		c.release()
		return fmt.Errorf("remove what is left of its predecessor: %w", err)
	}
	return nil
}

// takeLock keeps other processes from making or removing a cluster of this name until this one releases it or ends.
func (c *Cluster) takeLock() error {
	for c.lock == nil {
		f, err := os.OpenFile(c.cfg.Dir+".lock", os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return fmt.Errorf("another process has it (%s is locked): %w", f.Name(), err)
		}
		c.lock = f
		if !c.lockIsThere() { // its last owner removed it just now
			c.release()
		}
	}
	return nil
}

func (c *Cluster) lockIsThere() bool {
	held, err := c.lock.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(c.lock.Name())
	return err == nil && os.SameFile(held, named)
}

// release lets another process have the cluster's name.
func (c *Cluster) release() {
	if c.lock == nil {
		return
	}
	if !exists(c.path(stateFile)) && c.lockIsThere() {
		_ = os.Remove(c.lock.Name())
	}
	c.lock.Close()
	c.lock = nil
}

// LogTails returns the last lines of every log, for a failure's message.
func (c *Cluster) LogTails(lines int) string {
	var b strings.Builder
	logs, _ := filepath.Glob(c.path("logs", "*.log"))
	for _, name := range logs {
		raw, err := os.ReadFile(name)
		if err != nil || len(raw) == 0 {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(raw)), "\n")
		if len(all) > lines {
			all = all[len(all)-lines:]
		}
		fmt.Fprintf(&b, "--- %s\n", filepath.Base(name))
		for _, line := range all {
			fmt.Fprintf(&b, "%.240s\n", line)
		}
	}
	return b.String()
}
