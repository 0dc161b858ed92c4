package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
)

// makePod does for one pod what a kubelet and a CNI plug-in do: tell the world, make the network, have the agent
// capture it, and only then run anything in it.
func (r *run) makePod(ctx context.Context, pod *Pod) error {
	if err := writePodStatus(r.paths, pod); err != nil {
		return err
	}
	if err := writePodFiles(r.paths, pod); err != nil {
		return err
	}
	if err := makePodNetwork(r.paths, r.state.Plan, pod); err != nil {
		return err
	}
	r.state.Running[pod.FullName()] = true
	if err := r.state.save(r.paths); err != nil {
		return err
	}
	if err := r.enrol(ctx, pod); err != nil {
		return err
	}
	return r.startPod(ctx, pod)
}

// startPod starts a pod's processes.
func (r *run) startPod(ctx context.Context, pod *Pod) error {
	if pod.isWaypoint() {
		if err := r.readyWaypoint(ctx, pod); err != nil {
			return err
		}
	}
	for i := range pod.Containers {
		c := &pod.Containers[i]
		env, err := processEnv(pod, c, r.state.BinDir)
		if err != nil {
			return err
		}
		shim := r.podShim(pod, c.argv(r.state.BinDir, env))
		shim.Dir = c.WorkingDir
		cmd := command{name: pod.id(), cgroup: pod.id(), env: env, shim: shim}
		if err := r.launch(ctx, pod.FullName(), cmd); err != nil {
			return fmt.Errorf("pod %s: container %s: %w", pod.FullName(), c.Name, err)
		}
	}
	if pod.isWaypoint() {
		return r.awaitWaypoint(ctx, pod)
	}
	return nil
}

// podShim is how anything gets into a pod.
func (p paths) podShim(pod *Pod, argv []string) shimSpec {
	return shimSpec{NetNS: p.netns(pod.netns()), Etc: p.etc(pod.id()), Hostname: pod.hostname(), Argv: argv}
}

// stopPod ends a pod's processes and whatever they started.
func (r *run) stopPod(pod *Pod) error {
	key := pod.FullName()
	if err := stopAll(r.state.Processes[key], stopPatience); err != nil {
		return fmt.Errorf("pod %s: %w", key, err)
	}
	delete(r.state.Processes, key)
	dir, err := cgroupDir(r.paths)
	if err != nil {
		return err
	}
	if err := killCgroup(filepath.Join(dir, pod.id()), stopPatience); err != nil {
		return fmt.Errorf("pod %s: %w", key, err)
	}
	return r.state.save(r.paths)
}

// dropPod undoes makePod, however far that came.
func (r *run) dropPod(ctx context.Context, pod *Pod) error {
	err := errors.Join(
		r.stopPod(pod),
		removePodStatus(r.paths, pod),
		r.retire(ctx, pod),
		removePodNetwork(r.paths, r.state.Plan, pod),
		os.RemoveAll(r.etc(pod.id())),
		r.dropWaypoint(pod),
	)
	if file := r.addedFile(pod); err == nil {
		if err = os.Remove(file); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", pod.FullName(), err)
	}
	r.state.Plan.Pods = slices.DeleteFunc(r.state.Plan.Pods, func(p *Pod) bool { return p.FullName() == pod.FullName() })
	delete(r.state.Running, pod.FullName())
	return r.state.save(r.paths)
}

// addedFile is where the manifest of a pod is that did not come from the user's folder.
func (p paths) addedFile(pod *Pod) string { return filepath.Join(p.added(), pod.id()+".json") }

// publish brings names and services in line with the plan.
func (r *run) publish(ctx context.Context) error {
	pl := r.state.Plan
	return errors.Join(writeZone(r.paths, pl), syncServiceStatus(r.paths, pl), syncVIPs(ctx, r.paths, pl), r.state.save(r.paths))
}

// change runs fn while nobody else changes the lab.
func (l *Lab) change(fn func(*run) error) error {
	unlock, err := lock(l.paths)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := loadState(l.paths)
	if err != nil {
		return err
	}
	return fn(&run{paths: l.paths, state: s})
}

// changePod is change with a pod that must exist.
func (l *Lab) changePod(fullName string, fn func(*run, *Pod) error) error {
	return l.change(func(r *run) error {
		pod := r.state.Plan.pod(fullName)
		if pod == nil {
			return fmt.Errorf("pod %s: %w", fullName, ErrNotFound)
		}
		return fn(r, pod)
	})
}

// AddPod adds a pod to a running lab from its manifest, which need not be in the user's folder. It returns once the
// pod's processes run. Returns an error that wraps ErrManifest if the manifest is no pod, and ErrExists if there is
// one of that name. If a later step fails, the pod is removed again.
func (l *Lab) AddPod(ctx context.Context, manifest []byte) (*Pod, error) {
	objects, err := parseManifest("manifest", manifest)
	if err != nil {
		return nil, err
	}
	if len(objects) != 1 || objects[0].Kind != "Pod" {
		return nil, fmt.Errorf("%w: want exactly one Pod", ErrManifest)
	}
	var added *Pod
	err = l.change(func(r *run) error {
		pod, err := r.planPod(objects[0])
		if err != nil {
			return err
		}
		if err := writeFile(r.addedFile(pod), pod.Manifest, 0o644); err != nil {
			return err
		}
		added = pod
		return r.bringUp(ctx, pod)
	})
	return added, err
}

// planPod adds one pod to the plan.
func (r *run) planPod(o *object) (*Pod, error) {
	sorted, err := sortObjects([]*object{o})
	if err != nil {
		return nil, err
	}
	pl := r.state.Plan
	next := &plan{Nodes: pl.Nodes, Pods: slices.Clone(pl.Pods), Services: pl.Services}
	if name := o.Metadata.Namespace + "/" + o.Metadata.Name; pl.pod(name) != nil {
		return nil, fmt.Errorf("pod %s: %w", name, ErrExists)
	}
	if err := next.planPods(sorted["Pod"], &plan{}); err != nil {
		return nil, err
	}
	if err := next.checkAddresses(); err != nil {
		return nil, err
	}
	r.state.Plan = next
	return next.Pods[len(next.Pods)-1], nil
}

// bringUp makes a pod that is in the plan already, or takes it out of the plan again.
func (r *run) bringUp(ctx context.Context, pod *Pod) error {
	err := r.makePod(ctx, pod)
	if err != nil {
		err = errors.Join(err, r.dropPod(context.WithoutCancel(ctx), pod))
	}
	return errors.Join(err, r.publish(context.WithoutCancel(ctx)))
}

// RemovePod stops a pod and removes it. If the user's folder still has it, the next Reconcile makes it again.
// Returns ErrNotFound if there is no such pod.
func (l *Lab) RemovePod(ctx context.Context, fullName string) error {
	return l.changePod(fullName, func(r *run, pod *Pod) error {
		return errors.Join(r.dropPod(ctx, pod), r.publish(ctx))
	})
}

// RestartPod ends a pod's processes and starts them again in the same network namespace, as a kubelet restarts
// containers. Returns ErrNotFound if there is no such pod.
func (l *Lab) RestartPod(ctx context.Context, fullName string) error {
	return l.changePod(fullName, func(r *run, pod *Pod) error {
		if err := r.stopPod(pod); err != nil {
			return err
		}
		return r.startPod(ctx, pod)
	})
}

// Reconcile makes a running lab what its manifests say now: pods that are new are made, pods that are gone are
// removed, pods that changed in more than their labels are made anew, services follow. Nodes cannot change.
func (l *Lab) Reconcile(ctx context.Context) error {
	return l.change(func(r *run) error {
		objects, err := readManifests(r.added(), r.state.Manifests)
		if err != nil {
			return err
		}
		waypoints, err := r.waypointObjects(objects, r.state.TrustDomain)
		if err != nil {
			return err
		}
		objects = append(objects, waypoints...)
		next, err := makePlan(objects, r.state.Plan)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(next.Nodes, r.state.Plan.Nodes) {
			return fmt.Errorf("%w: the nodes of a lab cannot change while it is up", ErrManifest)
		}
		if err := r.writeGenerated(waypoints); err != nil {
			return err
		}
		for _, old := range slices.Clone(r.state.Plan.Pods) {
			if pod := next.pod(old.FullName()); pod == nil || !sameSandbox(old, pod) {
				if err := r.dropPod(ctx, old); err != nil {
					return err
				}
			}
		}
		// Again, so that a pod that is made anew gets a uid of its own.
		if next, err = makePlan(objects, r.state.Plan); err != nil {
			return err
		}
		return r.makeMissing(ctx, next)
	})
}

// makeMissing makes the pods that are new in a plan. The controller is told of all before the first is made, so that
// they do not wait for it one by one. If one cannot be made, it and those after it are taken out of the plan again.
func (r *run) makeMissing(ctx context.Context, next *plan) error {
	var missing []*Pod
	for _, pod := range next.Pods {
		if r.state.Plan.pod(pod.FullName()) == nil {
			missing = append(missing, pod)
		}
	}
	r.state.Plan = next
	var err error
	for _, pod := range missing {
		err = errors.Join(err, writePodStatus(r.paths, pod))
	}
	for _, pod := range missing {
		if err == nil {
			err = r.makePod(ctx, pod)
		}
		if err != nil {
			err = errors.Join(err, r.dropPod(context.WithoutCancel(ctx), pod))
		}
	}
	return errors.Join(err, r.publish(context.WithoutCancel(ctx)))
}

// sameSandbox says whether two versions of a pod differ in nothing that its processes or network show.
func sameSandbox(a, b *Pod) bool {
	x, y := *a, *b
	x.Labels, y.Labels, x.Manifest, y.Manifest = nil, nil, nil, nil
	// Through JSON, since one of them has been in a file: no list and an empty list are the same there.
	xs, errX := json.Marshal(x)
	ys, errY := json.Marshal(y)
	return errX == nil && errY == nil && bytes.Equal(xs, ys)
}
