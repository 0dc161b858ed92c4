package policy

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// fewPolicies are held against a connection one after the other. Of more only those are that an index gives: below
	// this the index costs more than it spares.
	fewPolicies = 8
	// maxSelections bounds how many lists of names a set remembers: a node has a few hundred workloads.
	maxSelections = 4096
	// maxNamed bounds how many policies a refusal names: it goes into a log line and to the peer.
	maxNamed = 8
)

// plan is what the policies of one target come to, in order of precedence.
type plan struct {
	policies []*compiled
	missing  string // the first name that the set does not have
	allows   int    // how many of them are ALLOW policies

	// Made when they are first asked for: which of them is, if any, a set cannot tell.
	unread, read lazyIndex
}

type lazyIndex struct {
	once  sync.Once
	index *index
}

func (p *plan) add(c *compiled) {
	p.policies = append(p.policies, c)
	if c.policy.Action == Allow {
		p.allows++
	}
}

// survey adds what the plan's policies have to say.
func (p *plan) survey(f *findings, who *subject) {
	if p.missing != "" {
		f.missed(p.missing)
	}
	if len(p.policies) <= fewPolicies {
		for _, c := range p.policies {
			f.add(c, who)
		}
		return
	}
	p.surveyByIndex(f, who)
}

func (p *plan) surveyByIndex(f *findings, who *subject) {
	f.allows = f.allows || p.allows > 0
	lazy := &p.unread
	if who.request != nil {
		lazy = &p.read
	}
	lazy.once.Do(func() { lazy.index = newIndex(p.policies, who.request != nil) })
	lazy.index.survey(f, who)
}

// selections remembers the plans of workloads, by the list of names that each has: by where it is and not by what it
// says, as to compare a thousand names takes longer than to decide.
type selections struct {
	byFirst sync.Map // *string, the first name of a list → *selection
	n       atomic.Int32
}

// selection holds on to its list, so that no other can come to lie at the same place.
type selection struct {
	names []string
	plan  *plan
}

// selected returns the plan of a list of names, nil if it is a short one or there is no room to remember it.
func (s *Set) selected(names []string) *plan {
	if s == nil || len(names) <= fewPolicies {
		return nil
	}
	first := &names[0]
	if known, ok := s.selections.byFirst.Load(first); ok {
		if k := known.(*selection); len(k.names) == len(names) {
			return k.plan
		}
		return nil // two lists that share an array
	}
	if s.selections.n.Add(1) > maxSelections {
		s.selections.n.Add(-1)
		return nil
	}
	made, raced := s.selections.byFirst.LoadOrStore(first, &selection{names, s.planOf(names)})
	if raced {
		s.selections.n.Add(-1)
		return s.selected(names)
	}
	return made.(*selection).plan
}

func (s *Set) planOf(names []string) *plan {
	p := &plan{}
	for _, name := range names {
		if c := s.lookup(name); c != nil {
			p.add(c)
		} else if p.missing == "" {
			p.missing = name
		}
	}
	return p
}

// allowing names the ALLOW policies of a target, all of whose policies are here; of many only the first.
func (s *Set) allowing(t Target) string {
	selected := s.selected(t.Policies)
	if selected == nil {
		selected = s.planOf(t.Policies)
	}
	names, all := selected.allowing(make([]string, 0, maxNamed))
	for _, target := range t.Targets {
		if p := s.planFor(target); p != nil {
			var more int
			names, more = p.allowing(names)
			all += more
		}
	}
	list := strings.Join(names, ", ")
	if all > len(names) {
		list = fmt.Sprintf("%s and %d more", list, all-len(names))
	}
	return list
}

// allowing appends the names of ALLOW policies up to maxNamed, and returns how many there are.
func (p *plan) allowing(names []string) ([]string, int) {
	for _, c := range p.policies {
		if len(names) == maxNamed {
			break
		}
		if c.policy.Action == Allow {
			names = append(names, c.title[len(titled):])
		}
	}
	return names, p.allows
}
