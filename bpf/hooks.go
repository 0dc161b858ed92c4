package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// hooks is every program that is attached once, at the root of the cgroup hierarchy.
var hooks = map[string]ebpf.AttachType{
	"connect4":     ebpf.AttachCGroupInet4Connect,
	"connect6":     ebpf.AttachCGroupInet6Connect,
	"established":  ebpf.AttachCGroupSockOps,
	"getpeername4": ebpf.AttachCgroupInet4GetPeername,
	"getpeername6": ebpf.AttachCgroupInet6GetPeername,
	"getsockname4": ebpf.AttachCgroupInet4GetSockname,
	"getsockname6": ebpf.AttachCgroupInet6GetSockname,
	"sendmsg4":     ebpf.AttachCGroupUDP4Sendmsg,
	"sendmsg6":     ebpf.AttachCGroupUDP6Sendmsg,
}

func (c *Capture) attachHook(cgroup, linkDir, name string) error {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: hooks[name], Program: c.progs.Programs[name]})
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", name, cgroup, besideWhom(cgroup, err))
	}
	defer l.Close()
	if err := l.Pin(filepath.Join(linkDir, name)); err != nil {
		return fmt.Errorf("pin link %s: %w", name, err)
	}
	return nil
}

// replaced is one hook as it was before.
type replaced struct {
	pin  string
	link link.Link
	old  *ebpf.Program // nil if the hook was not there
}

func (r replaced) undo() {
	if r.old == nil {
		_ = os.Remove(r.pin)
		return
	}
	_ = r.link.Update(r.old)
}

func (r replaced) close() {
	if r.old != nil {
		r.old.Close()
		r.link.Close()
	}
}

// replaceHooks puts this process's programs in place of an earlier agent's, each atomically. If one cannot be replaced,
// the earlier ones are put back.
func (c *Capture) replaceHooks(cgroup string) error {
	var done []replaced
	defer func() {
		for _, r := range done {
			r.close()
		}
	}()
	for name := range hooks {
		r, err := c.replaceHook(cgroup, name)
		if err != nil {
			for _, r := range done {
				r.undo()
			}
			return err
		}
		done = append(done, r)
	}
	return nil
}

func (c *Capture) replaceHook(cgroup, name string) (replaced, error) {
	dir := filepath.Join(c.dir, "links")
	r := replaced{pin: filepath.Join(dir, name)}
	l, err := link.LoadPinnedLink(r.pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return r, c.attachHook(cgroup, dir, name)
	}
	if err != nil {
		return r, fmt.Errorf("take over link %s: %w", name, err)
	}
	r.link = l
	if r.old, err = programOf(l); err == nil {
		err = l.Update(c.progs.Programs[name])
	}
	if err != nil {
		r.close()
		return r, fmt.Errorf("replace program %s: %w", name, err)
	}
	return r, nil
}

// programOf returns the program that a link runs.
func programOf(l link.Link) (*ebpf.Program, error) {
	info, err := l.Info()
	if err != nil {
		return nil, err
	}
	return ebpf.NewProgramFromID(info.Program)
}
