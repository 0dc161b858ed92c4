package controller

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

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
	bundle    *meshv1.Resource
	options   compile.Options
	log       *slog.Logger

	mu     sync.RWMutex
	output *compile.Output
	bad    []string // rejected manifests, and why the newest state was not compiled
}

func newState(p *publish.Publisher, authority *ca.Authority, cfg Config) *state {
	bundle := &meshv1.TrustBundle{TrustDomain: cfg.TrustDomain}
	for _, root := range authority.Roots() {
		bundle.Roots = append(bundle.Roots, root.Raw)
	}
	s := &state{publisher: p, bundle: resource.Bundle(bundle), options: compile.Options{TrustDomain: cfg.TrustDomain}, log: cfg.Log}
	s.output = compile.Empty()
	return s
}

// take compiles and publishes what the manifests say now. The directory that the CA asks knows a workload before an
// agent hears of it.
func (s *state) take(r manifest.Result) {
	started := time.Now()
	bad := r.Rejected
	if r.Incomplete {
		// To publish less than there is would take policies back.
		s.note(append(bad, "nothing is published before every folder of manifests could be read once; agents keep what they have"))
		return
	}
	out, err := compile.Compile(r.Objects, s.options)
	if err != nil {
		s.note(append(bad, err.Error()+"; what was published before stays in force"))
		return
	}
	s.note(bad)
	s.mu.Lock()
	logNew(s.log, "manifest object was left out or changed", s.output.Problems, out.Problems)
	s.output = out
	s.mu.Unlock()

	resources := maps.Clone(out.Resources)
	resources[s.bundle.GetKey()] = s.bundle
	before := s.publisher.Version()
	version, err := s.publisher.Publish(resources, time.Now())
	if err != nil {
		s.note(append(bad, err.Error()))
		return
	}
	if version != before {
		s.log.Info("published", "version", version, "resources", len(resources), "ignored", len(r.Ignored), "took", time.Since(started))
	}
}

// note keeps what was rejected and logs what is new.
func (s *state) note(bad []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	logNew(s.log, "manifest rejected", s.bad, bad)
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
	return ca.Record{Node: w.Node, ID: id, Enrolled: w.Enrolled}, true
}
