// Package netconf is what stands in a node's CNI configuration about Warren: the agent writes it (cni/cnichain), the
// plug-in reads it (cni). It knows no files and no sockets.
package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// Type is the plug-in's name in a configuration, and the name of its file in the runtime's plug-in directory.
	Type = "warren-cni"
	// DefaultSocket is where the agent listens.
	DefaultSocket = "/run/warren/agent.sock"
	// maxSocket is what fits into a unix socket's address.
	maxSocket = 107
	// maxExempt bounds the list of namespaces: it travels to every pod's start.
	maxExempt = 256
)

// Absent says what becomes of a new pod about which no agent can be asked.
type Absent string

const (
	// Deny fails the pod's start with a reason. The kubelet tries again.
	Deny Absent = "deny"
	// Allow lets it start uncaptured.
	Allow Absent = "allow"
)

// Conf is the plug-in's own part of its configuration. The zero value of a field means its default.
type Conf struct {
	// Socket is the agent's unix socket, as the host sees it.
	Socket string `json:"socket,omitempty"`
	// Log is a file for one line a call; none if empty. At most two files of a megabyte are kept.
	Log string `json:"log,omitempty"`
	// AgentAbsent is Deny if empty.
	AgentAbsent Absent `json:"agentAbsent,omitempty"`
	// ExemptNamespaces never wait long for an agent and never fail for want of one, whatever AgentAbsent says: what the
	// mesh itself needs to come up. Nil means kube-system and warren-system, empty means none.
	ExemptNamespaces []string `json:"exemptNamespaces,omitzero"`
}

// entry is Conf with the key that every plug-in has.
type entry struct {
	Type string `json:"type"`
	Conf
}

// WithDefaults fills in what is not said.
func (c Conf) WithDefaults() Conf {
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	if c.AgentAbsent == "" {
		c.AgentAbsent = Deny
	}
	if c.ExemptNamespaces == nil {
		c.ExemptNamespaces = []string{"kube-system", "warren-system"}
	}
	return c
}

// Validate names the first field that cannot be right.
func (c Conf) Validate() error {
	if c.Socket != "" {
		if err := absolute("socket", c.Socket); err != nil {
			return err
		}
		if len(c.Socket) > maxSocket {
			return fmt.Errorf("socket: the path has %d bytes, a unix socket's can have %d", len(c.Socket), maxSocket)
		}
	}
	if c.Log != "" {
		if err := absolute("log", c.Log); err != nil {
			return err
		}
	}
	if c.AgentAbsent != "" && c.AgentAbsent != Deny && c.AgentAbsent != Allow {
		return fmt.Errorf("agentAbsent: %q is neither %q nor %q", clip(string(c.AgentAbsent)), Deny, Allow)
	}
	if len(c.ExemptNamespaces) > maxExempt {
		return fmt.Errorf("exemptNamespaces: %d names, more than %d", len(c.ExemptNamespaces), maxExempt)
	}
	for _, ns := range c.ExemptNamespaces {
		if ns == "" || len(ns) > 63 {
			return fmt.Errorf("exemptNamespaces: %q is no namespace's name", clip(ns))
		}
	}
	return nil
}

func absolute(field, path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%s: %q is not an absolute path", field, clip(path))
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

// Exempt tells whether a namespace is one of ExemptNamespaces.
func (c Conf) Exempt(namespace string) bool { return slices.Contains(c.ExemptNamespaces, namespace) }

// Entry is the element of a chain's list of plug-ins that makes the runtime call the plug-in with this configuration.
func (c Conf) Entry() (json.RawMessage, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", Type, err)
	}
	return json.Marshal(entry{Type: Type, Conf: c})
}

// Parse reads what the runtime passes to the plug-in, with defaults filled in. Other keys are the runtime's.
func Parse(raw []byte) (Conf, error) {
	var e entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return Conf{}, fmt.Errorf("configuration: %w", err)
	}
	if e.Type != Type {
		return Conf{}, errors.New("configuration: its type is not " + Type)
	}
	if err := e.Validate(); err != nil {
		return Conf{}, fmt.Errorf("configuration: %w", err)
	}
	return e.WithDefaults(), nil
}

// Supported are the versions of the CNI specification that the plug-in speaks: those that know chains, with or
// without CHECK, GC and STATUS.
func Supported() []string { return []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} }
