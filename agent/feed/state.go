// Package feed keeps a node's picture of the mesh up to date: it watches the controller, applies updates whole or
// refuses them whole, acknowledges what is enforced, and keeps the last good state on disk for when the controller is
// gone.
//
// [State] is immutable and swapped whole. What is in force is never dropped for something worse: a refused update, a
// lost controller or a damaged file leave it as it was.
package feed

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
)

// State is everything the controller said at one version.
type State struct {
	Epoch   string
	Version uint64 // 0 if nothing was received yet

	Mesh     *mesh.Snapshot
	Policies *policy.Set
	Bundle   *identity.Bundle
	// ReceivedAt is when the update came, or when the state was read from disk.
	ReceivedAt time.Time
	// FromDisk is true if the state was read from the state file and no controller confirmed it yet.
	FromDisk bool

	resources map[string]*meshv1.Resource
	// decoded is what resources came to: the next state decodes only what is new in it.
	decoded resource.Decoded
}

// ErrRefused is wrapped by every error of Apply.
var ErrRefused = errors.New("update refused")

// maxResources bounds a state.
const maxResources = 500_000

// Empty returns the state of a node that has heard nothing yet.
func Empty() *State {
	snapshot, err := mesh.NewSnapshot("", 0, nil, nil)
	if err != nil {
		panic("feed: an empty snapshot is consistent") // nothing in it can conflict
	}
	return &State{Mesh: snapshot, resources: map[string]*meshv1.Resource{}}
}

// Apply returns the state that an update makes of s, which stays as it is.
// Returns an error that wraps ErrRefused if the update does not follow s, contradicts itself, has a resource that
// cannot be decoded, comes to an inconsistent state, or takes every root of a trust domain away: without roots no
// peer can be verified, and no later update could come from a controller that is.
func (s *State) Apply(u *meshv1.Update, now time.Time) (*State, error) {
	if err := s.follows(u); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	resources, err := s.merge(u)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	decoded, err := s.decode(u, resources)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for _, td := range s.Bundle.TrustDomains() {
		if len(decoded.Bundle.Roots(td)) == 0 {
			return nil, fmt.Errorf("%w: it takes every root of trust domain %s away", ErrRefused, td)
		}
	}
	return &State{
		Epoch: u.GetEpoch(), Version: u.GetVersion(), ReceivedAt: now,
		Mesh: decoded.Mesh, Policies: decoded.Policies, Bundle: decoded.Bundle, resources: resources, decoded: decoded,
	}, nil
}

// decode decodes what u makes of s. Many versions change nothing that this node is told.
func (s *State) decode(u *meshv1.Update, resources map[string]*meshv1.Resource) (resource.Decoded, error) {
	if u.GetBase() != 0 && len(u.GetSet()) == 0 && len(u.GetRemoved()) == 0 {
		return s.decoded.At(u.GetVersion()), nil
	}
	return s.decoded.Next(u.GetEpoch(), u.GetVersion(), resources)
}

// Decoded is everything that the state's resources came to, for who needs more than Mesh and Policies.
func (s *State) Decoded() resource.Decoded { return s.decoded }

// follows checks that the update starts where s is.
func (s *State) follows(u *meshv1.Update) error {
	epoch, base, version := u.GetEpoch(), u.GetBase(), u.GetVersion()
	switch {
	case epoch == "" || len(epoch) > 128:
		return fmt.Errorf("epoch of %d bytes", len(epoch))
	case version == 0:
		return errors.New("version 0")
	case base == 0 && epoch == s.Epoch && version < s.Version:
		return fmt.Errorf("version %d is older than %d, which is in force", version, s.Version)
	case base == 0:
		return nil
	case epoch != s.Epoch:
		return fmt.Errorf("a delta of epoch %q, but epoch %q is in force", epoch, s.Epoch)
	case version <= s.Version:
		return fmt.Errorf("version %d is not newer than %d, which is in force", version, s.Version)
	case base != s.Version:
		return fmt.Errorf("a delta from version %d, but version %d is in force", base, s.Version)
	}
	return nil
}

// merge returns the resources after u.
func (s *State) merge(u *meshv1.Update) (map[string]*meshv1.Resource, error) {
	out := make(map[string]*meshv1.Resource, len(s.resources)+len(u.GetSet()))
	if u.GetBase() != 0 {
		maps.Copy(out, s.resources)
	}
	if u.GetBase() == 0 && len(u.GetRemoved()) > 0 {
		return nil, errors.New("it replaces everything and yet removes something")
	}
	for _, key := range u.GetRemoved() {
		if _, ok := out[key]; !ok {
			return nil, fmt.Errorf("it removes %q, which is not there", key)
		}
		delete(out, key)
	}
	seen := make(map[string]bool, len(u.GetSet())+len(u.GetRemoved()))
	for _, key := range u.GetRemoved() {
		seen[key] = true
	}
	for _, r := range u.GetSet() {
		if seen[r.GetKey()] {
			return nil, fmt.Errorf("it names %q twice", r.GetKey())
		}
		seen[r.GetKey()] = true
		out[r.GetKey()] = r
	}
	if len(out) > maxResources {
		return nil, fmt.Errorf("%d resources, more than %d", len(out), maxResources)
	}
	return out, nil
}
