package enroll

import (
	"errors"
	"os"
	"time"

	"github.com/warren-mesh/warren/mesh"
)

// lookEvery bounds how often running pods are looked for: it reads a file of every process.
const lookEvery = time.Second

// discover registers pods that run and that nobody announced: they were there before the plug-in was, or while the agent
// was away. Only those that the mesh wants are looked for.
func (e *Enroller) discover() {
	if e.cfg.Finder == nil {
		return
	}
	missing := e.missing()
	e.mu.Lock()
	due := time.Since(e.looked) >= lookEvery
	if len(missing) > 0 && due {
		e.looked = time.Now()
	}
	e.mu.Unlock()
	if len(missing) > 0 && !due {
		time.AfterFunc(lookEvery, e.wake)
		return
	}
	var found map[mesh.UID]string
	if len(missing) > 0 {
		uids := make([]mesh.UID, 0, len(missing))
		for uid := range missing {
			uids = append(uids, uid)
		}
		var err error
		if found, err = e.cfg.Finder.Find(uids); err != nil {
			e.cfg.Log.Warn("running pods could not be looked for", "err", err)
		}
	}
	e.register(missing, found)
}

// missing returns the workloads that should be captured here and are not registered. One without an address has no
// network yet: the plug-in will announce it.
func (e *Enroller) missing() map[mesh.UID]*mesh.Workload {
	out := map[mesh.UID]*mesh.Workload{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.cfg.World.Load().Mesh.OnNode(e.cfg.Node) {
		if w.Captured() && len(w.Addrs) > 0 && e.pods[w.UID] == nil {
			out[w.UID] = w
		}
	}
	return out
}

func (e *Enroller) register(missing map[mesh.UID]*mesh.Workload, found map[mesh.UID]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost = map[mesh.UID]bool{}
	for uid, w := range missing {
		path, ok := found[uid]
		if !ok {
			e.lost[uid] = true
			continue
		}
		if e.pods[uid] == nil { // announced meanwhile
			e.pods[uid] = newPod(Registration{UID: uid, Namespace: w.Namespace, Name: w.Name, Netns: path})
			e.cfg.Log.Info("found running pod", "pod", w.FullName(), "netns", path)
		}
	}
	if len(found) > 0 {
		if err := e.save(); err != nil {
			e.cfg.Log.Warn("found pods are not kept over a restart", "err", err)
		}
	}
}

// forgetGone lets pods go whose network namespace is no longer where it was: the plug-in could not say so while the agent
// was away, or the pod was found by a process that has ended. One that runs still is found again.
func (e *Enroller) forgetGone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	var gone bool
	for uid, p := range e.pods {
		if _, err := os.Stat(p.reg.Netns); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		e.cfg.Log.Info("pod's network namespace is gone", "pod", p.reg.fullName())
		e.letGo(p)
		delete(e.pods, uid)
		gone = true
	}
	if gone {
		if err := e.save(); err != nil {
			e.cfg.Log.Warn("pods that are gone are kept in the registry", "err", err)
		}
	}
}

// Lost returns the pods that should be captured here and could not be found.
func (e *Enroller) Lost() []*mesh.Workload {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*mesh.Workload
	for uid := range e.lost {
		if w := e.cfg.World.Load().Mesh.Workload(uid); w != nil {
			out = append(out, w)
		}
	}
	return out
}
