package bpf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Other is a program that is not Warren's, at a hook where Warren has one.
type Other struct {
	// Hook is our name for the hook, such as connect4.
	Hook string
	// Program is its name. The kernel keeps 15 bytes, and the whole name only with its types.
	Program string
	// First means that it runs before Warren's, and so decides what Warren sees.
	First bool
}

func (o Other) String() string {
	if o.First {
		return fmt.Sprintf("%s at %s, before Warren's", o.Program, o.Hook)
	}
	return fmt.Sprintf("%s at %s", o.Program, o.Hook)
}

// Others returns who else has programs at a cgroup that run when a process connects or asks for its
// peer: a second program there changes where a connection goes, or what the app is told of it. Programs of other Warren
// agents on this kernel are not told.
func Others(cgroup string) ([]Other, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, fmt.Errorf("open the cgroup: %w", err)
	}
	defer dir.Close()
	var all []Other
	for _, hook := range []string{"connect4", "connect6", "getpeername4", "getpeername6"} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hooks[hook]}) // in the order in which they run
		if err != nil {
			return nil, fmt.Errorf("ask who is attached to %s of %s: %w", hook, cgroup, err)
		}
		others, err := othersOf(hook, found.Programs)
		if err != nil {
			return nil, err
		}
		all = append(all, others...)
	}
	return all, nil
}

func othersOf(hook string, programs []link.AttachedProgram) (others []Other, err error) {
	before := 0 // how many of others run before ours
	for _, p := range programs {
		name, ours, err := nameOf(p.ID)
		switch {
		case errors.Is(err, os.ErrNotExist): // it was detached since
		case err != nil:
			return nil, fmt.Errorf("read program %d at %s: %w", p.ID, hook, err)
		case !ours:
			others = append(others, Other{Hook: hook, Program: name})
		case before == 0:
			before = len(others)
		}
	}
	for i := range others[:before] {
		others[i].First = true
	}
	return others, nil
}

// nameOf reads a program's name, and tells if it is of a Warren: by its name, and by a map that it uses.
func nameOf(id ebpf.ProgramID) (name string, ours bool, err error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", false, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", false, err
	}
	name = info.Name
	if funcs, err := info.FuncInfos(); err == nil && len(funcs) > 0 && strings.HasPrefix(funcs[0].Func.Name, name) {
		name = funcs[0].Func.Name
	}
	if name == "" {
		name = fmt.Sprintf("a program without a name (id %d)", id)
	}
	_, ours = hooks[name]
	maps, _ := info.MapIDs()
	return name, ours && slices.ContainsFunc(maps, isOwnSockets), nil
}

func isOwnSockets(id ebpf.MapID) bool {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return false
	}
	defer m.Close()
	info, err := m.Info()
	return err == nil && info.Name == captureMapOwnSockets
}

// besideWhom adds to a refused attachment who is there: one that was attached without leave for others refuses them all.
func besideWhom(cgroup string, err error) error {
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	others, query := Others(cgroup)
	if query != nil || len(others) == 0 {
		return err
	}
	var names []string
	for _, o := range others {
		names = append(names, o.String())
	}
	return fmt.Errorf("%w: there is %s, which may have been attached so that nobody else can be", err, strings.Join(names, ", "))
}
