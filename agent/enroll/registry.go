package enroll

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/warren-mesh/warren/mesh"
)

// Registration is a pod of this node, as whoever made its network namespace announced it.
type Registration struct {
	UID       mesh.UID `json:"uid"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Netns     string   `json:"netns"` // path
}

// fullName is "<namespace>/<name>".
func (r Registration) fullName() string { return r.Namespace + "/" + r.Name }

// maxRegistry bounds the file that is read at start.
const maxRegistry = 4 << 20

// loadRegistry reads what an earlier agent knew. A file that is not there is an empty registry.
func loadRegistry(path string) ([]Registration, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pod registry: %w", err)
	}
	if info.Size() > maxRegistry {
		return nil, fmt.Errorf("read pod registry: %s has %d bytes, more than %d", path, info.Size(), maxRegistry)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read pod registry: %w", err)
	}
	var regs []Registration
	if err := json.Unmarshal(raw, &regs); err != nil {
		return nil, fmt.Errorf("read pod registry %s: %w", path, err)
	}
	return regs, nil
}

// saveRegistry replaces the file in one step.
func saveRegistry(path string, regs []Registration) error {
	raw, err := json.Marshal(regs)
	if err != nil {
		return fmt.Errorf("write pod registry: %w", err)
	}
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(aside, raw, 0o600); err != nil {
		return fmt.Errorf("write pod registry: %w", err)
	}
	if err := os.Rename(aside, path); err != nil {
		return fmt.Errorf("write pod registry: %w", err)
	}
	return nil
}
