package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Down removes every trace of a lab: processes, namespaces, links, cgroups, pins and files. It works on a lab that
// was half made or half removed, and a lab that is not there is not an error.
func Down(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p := paths{name}
	unlock, err := lock(p)
	if err == nil {
		defer unlock()
	} else if !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := teardown(p); err != nil {
		return fmt.Errorf("lab %q: remove: %w", name, err)
	}
	return nil
}

// Down is the package's Down for this lab.
func (l *Lab) Down(ctx context.Context) error { return Down(ctx, l.paths.name) }

// teardown goes on after an error, so that one thing that cannot be removed does not keep the rest.
func teardown(p paths) error {
	errs := []error{stopGracefully(p)}
	if dir, err := cgroupDir(p); err == nil {
		left := cgroupPIDs(dir)
		errs = append(errs, killCgroup(dir, 2*stopPatience), removeIfEmpty(filepath.Dir(dir)))
		reap(left)
	} else if !errors.Is(err, errNoCgroup2) {
		errs = append(errs, err)
	}
	errs = append(errs, os.RemoveAll(p.pins()), removeIfEmpty(filepath.Dir(p.pins())))
	names, err := os.ReadDir(filepath.Dir(p.netns("x")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range names {
		errs = append(errs, deleteNetNS(p.netns(e.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the folder stays, so that the lab is still listed and Down can be tried again
	}
	return errors.Join(os.RemoveAll(p.dir()), removeIfEmpty(runRoot))
}

// stopGracefully asks pods to end, then agents, controller and DNS. Those that do not are left to killCgroup.
func stopGracefully(p paths) error {
	s, err := loadState(p)
	if err != nil {
		return nil //nolint:nilerr // without a state nothing can be asked; everything is in a cgroup
	}
	var pods, daemons []Process
	for key, procs := range s.Processes {
		if strings.Contains(key, "/") {
			pods = append(pods, procs...)
		} else {
			daemons = append(daemons, procs...)
		}
	}
	return errors.Join(stopAll(pods, stopPatience), stopAll(daemons, stopPatience))
}

// removeIfEmpty removes a folder that all labs share unless another lab is in it.
func removeIfEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Open attaches to a lab that exists. Returns ErrNotFound if there is none of that name.
func Open(name string) (*Lab, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	p := paths{name}
	if _, err := loadState(p); err != nil {
		return nil, err
	}
	return &Lab{p}, nil
}

// Summary is one lab in a list.
type Summary struct {
	Name      string
	Manifests string
	Created   time.Time
	Nodes     int
	Pods      int
	// Problem says what is wrong with the lab, empty if nothing is known to be.
	Problem string
}

// List returns all labs on this machine by name, half-made ones too.
func List() ([]Summary, error) {
	entries, err := os.ReadDir(runRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var labs []Summary
	for _, e := range entries {
		if e.IsDir() && checkName(e.Name()) == nil {
			labs = append(labs, summarize(paths{e.Name()}))
		}
	}
	return labs, nil
}

func summarize(p paths) Summary {
	s, err := loadState(p)
	if err != nil {
		return Summary{Name: p.name, Problem: "half made or half removed"}
	}
	sum := Summary{Name: p.name, Manifests: s.Manifests, Created: s.Created, Nodes: len(s.Plan.Nodes), Pods: len(s.Plan.Pods)}
	if !s.Complete {
		sum.Problem = "half made, or being made"
	}
	var dead []string
	for key, procs := range s.Processes {
		if !slices.ContainsFunc(procs, Process.Alive) {
			dead = append(dead, key)
		}
	}
	if slices.Sort(dead); len(dead) > 0 {
		sum.Problem = "not running: " + strings.Join(dead, ", ")
	}
	return sum
}
