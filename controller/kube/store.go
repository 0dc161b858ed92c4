package kube

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/warren-mesh/warren/controller/manifest"
)

// store holds the objects of one kind. It is what a reflector writes to: objects are converted as they come in, so that
// nothing is kept that the mesh does not need.
type store struct {
	kind    string
	changed func()

	mu       sync.Mutex
	synced   bool
	objects  map[name]*manifest.Object
	rejected map[name]rejection
	stated   map[name]bool // routes whose status has an entry of ours
	failure  string        // why the API server could not be followed, "" while it is
}

type name struct{ namespace, name string }

// rejection is why an object's newest content is not in force.
type rejection struct {
	uid        string
	generation int64
	reason     string
}

func newStore(kind string, changed func()) *store {
	return &store{kind: kind, changed: changed, objects: map[name]*manifest.Object{}, rejected: map[name]rejection{}, stated: map[name]bool{}}
}

// put takes an object in. One of ours that says something impossible keeps what it said last, as a manifest file does.
// Caller holds mu.
func (s *store) put(obj any, into map[name]*manifest.Object, rejected map[name]rejection) error {
	m, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("watch %s: got a %T", s.kind, obj)
	}
	key := name{m.GetNamespace(), m.GetName()}
	if delete(s.stated, key); isStated(obj) {
		s.stated[key] = true
	}
	o, err := convert(obj)
	if err != nil {
		rejected[key] = rejection{string(m.GetUID()), m.GetGeneration(), err.Error()}
		if old := s.objects[key]; old != nil && old.Meta.UID == string(m.GetUID()) {
			into[key] = old
		}
		return nil
	}
	delete(rejected, key)
	into[key] = o
	return nil
}

// Add implements cache.ReflectorStore.
func (s *store) Add(obj any) error { return s.Update(obj) }

// Update implements cache.ReflectorStore.
func (s *store) Update(obj any) error {
	s.mu.Lock()
	err := s.put(obj, s.objects, s.rejected)
	s.mu.Unlock()
	s.changed()
	return err
}

// Delete implements cache.ReflectorStore.
func (s *store) Delete(obj any) error {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	m, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("watch %s: a %T was deleted", s.kind, obj)
	}
	key := name{m.GetNamespace(), m.GetName()}
	s.mu.Lock()
	delete(s.objects, key)
	delete(s.rejected, key)
	delete(s.stated, key)
	s.mu.Unlock()
	s.changed()
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *store) Replace(list []any, _ string) error {
	objects, rejected := make(map[name]*manifest.Object, len(list)), map[name]rejection{}
	s.mu.Lock()
	for _, obj := range list {
		if err := s.put(obj, objects, rejected); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	s.objects, s.rejected, s.synced = objects, rejected, true
	s.mu.Unlock()
	s.changed()
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *store) Resync() error { return nil }

// answered notes whether the API server answered a list or a watch, and logs when that changes.
func (s *store) answered(ctx context.Context, log *slog.Logger, err error) {
	failure := ""
	if err != nil && ctx.Err() == nil {
		failure = err.Error()
	}
	s.mu.Lock()
	before := s.failure
	s.failure = failure
	s.mu.Unlock()
	switch {
	case before == "" && failure != "":
		log.Warn("the API server does not answer; what it said last stays", "err", err)
	case before != "" && failure == "":
		log.Info("the API server answers again")
	default:
		return
	}
	s.changed()
}

// absent notes that the API server does not have the kind, and so no object of it.
func (s *store) absent() {
	s.mu.Lock()
	same := s.synced && len(s.objects)+len(s.rejected) == 0
	s.objects, s.rejected, s.synced, s.failure = map[name]*manifest.Object{}, map[name]rejection{}, true, ""
	s.mu.Unlock()
	if !same {
		s.changed()
	}
}

// unanswered notes why it is not known whether the API server has the kind.
func (s *store) unanswered(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.synced {
		s.failure = err.Error()
	}
}

// read adds what the store holds to a result.
func (s *store) read(r *manifest.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.objects {
		r.Objects = append(r.Objects, o)
	}
	for _, bad := range s.rejected {
		r.Rejected = append(r.Rejected, bad.reason)
	}
	if !s.synced {
		r.Incomplete = true
		if s.failure != "" {
			r.Rejected = append(r.Rejected, "cannot read "+s.kind+" objects: "+s.failure)
		}
	}
}
