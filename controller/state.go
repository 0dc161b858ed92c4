package controller

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/controller/publish"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
)

// state is the compiled state: what the manifests said last that could be compiled.
type state struct {
	publisher *publish.Publisher
	bundleKey string
	bundle    []byte // the trust bundle's resource, marshalled
	options   compile.Options
	leaving   func() bool
	log       *slog.Logger

	mu     sync.RWMutex
	output *compile.Output
	left   bool     // output was compiled for a mesh that leaves
	bad    []string // rejected manifests, and why the newest state was not compiled
}

func newState(p *publish.Publisher, authority *ca.Authority, cfg Config) (*state, error) {
	bundle := &meshv1.TrustBundle{TrustDomain: cfg.TrustDomain}
	for _, root := range authority.Roots() {
		bundle.Roots = append(bundle.Roots, root.Raw)
	}
	r := resource.Bundle(bundle)
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	s := &state{publisher: p, bundleKey: r.GetKey(), bundle: encoded, options: compile.Options{TrustDomain: cfg.TrustDomain, ClusterDomain: cfg.ClusterDomain, RootNamespace: cfg.RootNamespace}, leaving: cfg.Leaving, log: cfg.Log}
	s.output = compile.Empty()
	return s, nil
}

// take compiles and publishes what the manifests say now. The directory that the CA asks knows a workload before an
// agent hears of it.
func (s *state) take(r manifest.Result) {
	started := time.Now()
	bad := r.Rejected
	if r.Incomplete {
		// To publish less than there is would take policies back.
		s.note(append(bad, "nothing is published before everything could be read once; agents keep what they have"))
		return
	}
	options := s.options
	options.Leaving = s.leaving()
	out, err := s.compiled().Next(r.Objects, options)
	if err != nil {
		s.note(append(bad, err.Error()+"; what was published before stays in force"))
		return
	}
	s.note(bad)
	s.mu.Lock()
	logNew(s.log, "left out or changed", s.output.Problems, out.Problems)
	s.output = out
	s.mu.Unlock()
	defer s.markLeft(options.Leaving)

	encoded := maps.Clone(out.Encoded)
	encoded[s.bundleKey] = s.bundle
	before := s.publisher.Version()
	if version := s.publisher.Publish(encoded, out.Audience, time.Now()); version != before {
		s.log.Info("published", "version", version, "resources", len(encoded), "ignored", len(r.Ignored), "took", time.Since(started))
	}
}

// markLeft notes, once a state is published, whether it was one of a mesh that leaves.
func (s *state) markLeft(leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = leaving
}

// leavePublished tells whether agents were told that the mesh leaves.
func (s *state) leavePublished() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.left
}

// note keeps what was rejected and logs what is new.
func (s *state) note(bad []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	logNew(s.log, "rejected", s.bad, bad)
	s.bad = slices.Clone(bad)
}

func logNew(log *slog.Logger, msg string, old, now []string) {
	for _, line := range now {
		if !slices.Contains(old, line) {
			log.Warn(msg, "reason", line)
		}
	}
}

func (s *state) compiled() *compile.Output {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.output
}

func (s *state) rejected() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.bad)
}

// ready tells whether agents that connect now get a state.
func (s *state) ready() bool { return s.publisher.Version() > 0 }

// Workload implements ca.Directory.
func (s *state) Workload(uid string) (ca.Record, bool) {
	w := s.compiled().Decoded.Mesh.Workload(mesh.UID(uid))
	if w == nil {
		return ca.Record{}, false
	}
	id, err := identity.New(w.TrustDomain, w.Namespace, w.ServiceAccount)
	if err != nil {
		return ca.Record{}, false
	}
	return ca.Record{Node: w.Node, Name: w.FullName(), ID: id, Enrolled: w.Enrolled, Waypoint: w.Gateway != ""}, true
}

// hasNode tells whether a node is there, for renewing its certificate.
func (s *state) hasNode(name string) bool {
	_, ok := slices.BinarySearch(s.compiled().Nodes, name)
	return ok
}

// nodeOf returns the node of a pod, by its uid, for agents that prove to be a node by their pod.
func (s *state) nodeOf(uid string) (string, bool) {
	w := s.compiled().Decoded.Mesh.Workload(mesh.UID(uid))
	if w == nil {
		return "", false
	}
	return w.Node, true
}
