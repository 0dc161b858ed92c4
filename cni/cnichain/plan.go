package cnichain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/cni/netconf"
)

// derivedSuffix ends the name of a configuration that we made beside one that we cannot write into. It sorts right
// before the file that it stands for: '-' comes before '.', and the runtime takes the first.
const derivedSuffix = "-warren.conflist"

// file is one configuration in the runtime's directory.
type file struct {
	text []byte
	link bool  // a symbolic link: it is somebody's choice where the text lives, so we do not write there
	err  error // why it cannot be read
}

// plan is what has to change in the directory, and what stands there then. Making it touches nothing.
type plan struct {
	target  string // the configuration that the runtime uses; "" if there is none
	at      string // the file that has our plug-in then: target, or one derived from it
	write   map[string][]byte
	drop    []string
	problem string // the first thing that a person should look at
	waiting bool   // no main plug-in is there yet
	copied  bool   // the plug-in's file was missing or another, and was copied
}

// isConf tells whether the runtime looks at a file of this name.
func isConf(name string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, path.Ext(name))
}

func isDerived(name string) bool { return strings.HasSuffix(name, derivedSuffix) }

// derivedName is the name beside a configuration.
func derivedName(name string) string { return strings.TrimSuffix(name, path.Ext(name)) + derivedSuffix }

// others are the configurations that are not ours, in the runtime's order.
func others(dir map[string]file) (names []string) {
	for name := range dir {
		if !isDerived(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// planInstall finds the first configuration that can be used, and has our plug-in in it and in no other. A runtime
// may skip a broken file, or stop at it: the next good one is ours in the first case, and no worse off in the second.
func planInstall(dir map[string]file, entry json.RawMessage) plan {
	p := plan{write: map[string][]byte{}}
	for _, name := range others(dir) {
		if p.target != "" {
			p.takeOut(name, dir[name])
			continue
		}
		at, text, err := placed(name, dir[name], entry)
		if err != nil {
			p.note(name, err)
			p.takeOut(name, dir[name])
			continue
		}
		p.target, p.at = name, at
		if !bytes.Equal(dir[at].text, text) || dir[at].link {
			p.write[at] = text
		}
	}
	p.dropDerived(dir)
	p.waiting = p.target == "" && p.problem == ""
	return p
}

// placed says in which file, with which text, our plug-in follows the plug-ins of a configuration.
func placed(name string, f file, entry json.RawMessage) (at string, text []byte, err error) {
	if f.err != nil {
		return "", nil, f.err
	}
	if path.Ext(name) != ".conflist" {
		text, err = wrap(f.text, entry)
		return derivedName(name), text, err
	}
	text, err = insert(f.text, entry)
	if f.link {
		return derivedName(name), text, err
	}
	return name, text, err
}

// planRemove takes our plug-in out everywhere.
func planRemove(dir map[string]file) plan {
	p := plan{write: map[string][]byte{}}
	for _, name := range others(dir) {
		p.takeOut(name, dir[name])
	}
	p.dropDerived(dir)
	return p
}

func (p *plan) takeOut(name string, f file) {
	if f.link || f.err != nil || path.Ext(name) != ".conflist" || !bytes.Contains(f.text, []byte(netconf.Type)) {
		return
	}
	text, had, err := remove(f.text)
	if err != nil {
		p.note(name, fmt.Errorf("%s cannot be taken out of it: %w", netconf.Type, err))
	} else if had {
		p.write[name] = text
	}
}

func (p *plan) dropDerived(dir map[string]file) {
	for name := range dir {
		if isDerived(name) && name != p.at {
			p.drop = append(p.drop, name)
		}
	}
	slices.Sort(p.drop)
}

func (p *plan) note(name string, err error) {
	if p.problem == "" {
		p.problem = fmt.Sprintf("%s: %v", name, err)
	}
}

func (p *plan) nothingToDo() bool { return len(p.write) == 0 && len(p.drop) == 0 }
