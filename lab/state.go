package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// state is what a lab remembers between the commands of its user, in one file.
type state struct {
	Name        string
	Manifests   string
	BinDir      string
	TrustDomain string
	WithoutMesh bool
	Created     time.Time
	Complete    bool // Up came to its end
	AgentArgs   []string
	CtlArgs     []string
	Plan        *plan
	Running     map[string]bool // pods by full name whose network was made
	Processes   map[string][]Process
}

// Names of entries in state.Processes that are not a pod's full name; those hold a slash.
const (
	dnsProcess        = "dns"
	controllerProcess = "controller"
)

func agentProcess(node string) string { return "agent-" + node }

func loadState(p paths) (*state, error) {
	text, err := os.ReadFile(p.state())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q: %w", p.name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %q: %w", p.name, err)
	}
	s := &state{}
	if err := json.Unmarshal(text, s); err != nil || s.Plan == nil {
		return nil, fmt.Errorf("lab %q: cannot read %s (`agentctl lab down` removes the lab all the same): %w", p.name, p.state(), err)
	}
	return s, nil
}

func (s *state) save(p paths) error { return writeJSON(p.state(), s) }

// record notes a process the moment it exists, so that Down finds it whatever happens next.
func (s *state) record(p paths, key string, proc Process) error {
	s.Processes[key] = append(s.Processes[key], proc)
	return s.save(p)
}

// writeJSON replaces a file in one step.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writeFile(path, text, 0o600) // a pod's environment may hold what is nobody's business
}

// writeFile replaces a file in one step. Its temporary name starts with a dot, which readers of folders skip.
func writeFile(path string, text []byte, mode os.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, text, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// lock holds off everybody else who would change the lab, in this process or another, until unlock is called.
func lock(p paths) (unlock func(), err error) {
	dir, err := os.Open(p.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q: %w", p.name, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("lock lab %q: %w", p.name, err)
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("lock lab %q: %w", p.name, err)
	}
	return func() { _ = dir.Close() }, nil
}
