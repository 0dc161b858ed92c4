package kube

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/warren-mesh/warren/controller/manifest"
)

// discovery answers which resources there are.
type discovery struct {
	mu     sync.Mutex
	served []string
	err    error
}

func (d *discovery) set(err error, served ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served, d.err = served, err
}

func (d *discovery) answer(_ context.Context, gv schema.GroupVersion) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if gv.Version != "v1" {
		return nil, d.err
	}
	return d.served, d.err
}

// Kinds that the API server does not have neither hold the mesh up nor are they taken for unread; they are taken up when
// they appear, and their objects go with them.
func TestKindsThatMayBeMissing(t *testing.T) {
	c, _ := routeCluster(t, routeObject("/x"))
	o := c.source.optional
	for _, k := range o.kinds {
		k.at = schema.GroupVersionResource{}
	}
	asked := &discovery{err: errors.New("no route to host")}
	o.every, o.served = 5*time.Millisecond, asked.answer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); o.run(ctx) }()
	defer func() { cancel(); <-done }()

	until := func(what string, is func(manifest.Result) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !is(c.source.collect()); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, c.source.collect())
			}
			<-time.After(2 * time.Millisecond)
		}
	}
	until("while nobody knows what there is, nothing is complete", func(r manifest.Result) bool { return r.Incomplete && len(r.Rejected) > 0 })
	asked.set(nil)
	until("what is not there has no objects", func(r manifest.Result) bool { return !r.Incomplete && len(r.Objects) == 0 })
	asked.set(nil, "httproutes")
	until("a kind that appears is followed", func(r manifest.Result) bool { return len(r.Objects) == 1 })
	if at := o.resourceAt(manifest.KindHTTPRoute); at != routes() {
		t.Errorf("it is at %v", at)
	}
	asked.set(errors.New("no route to host"))
	<-time.After(20 * time.Millisecond)
	until("what was seen last stays while nobody answers", func(r manifest.Result) bool { return !r.Incomplete && len(r.Objects) == 1 })
	asked.set(nil)
	until("a kind that goes takes its objects along", func(r manifest.Result) bool { return !r.Incomplete && len(r.Objects) == 0 })
}
