package route

import (
	"slices"
	"strings"
)

// fewCandidates are asked one after the other. Of more on one path only those are that a header leads to.
const fewCandidates = 16

// list is the candidates of one path in order of precedence.
type list struct {
	all []*candidate
	// Of a long one: places in all, by a header's value that must be there; rest are those without one.
	byHeader map[headerIs][]int32
	names    []string // of byHeader
	rest     []int32
}

// lists are candidates by path.
type lists map[string]*list

func (ls lists) add(path string, c *candidate) {
	if ls[path] == nil {
		ls[path] = &list{}
	}
	ls[path].all = append(ls[path].all, c)
}

type headerIs struct{ name, text string }

// order sorts the list, and indexes a long one.
func (l *list) order() {
	slices.SortStableFunc(l.all, compare)
	if len(l.all) <= fewCandidates {
		return
	}
	uses := make(map[headerIs]int)
	for _, c := range l.all {
		for _, v := range c.headers.all {
			uses[headerIs{v.name, v.text}]++
		}
	}
	l.byHeader = make(map[headerIs][]int32)
	for i, c := range l.all {
		is, ok := c.headers.rarest(uses)
		if !ok {
			l.rest = append(l.rest, int32(i))
			continue
		}
		l.byHeader[is] = append(l.byHeader[is], int32(i))
		if !slices.Contains(l.names, is.name) {
			l.names = append(l.names, is.name)
		}
	}
}

// rarest returns the exact value that the fewest others ask for, false if there is none.
func (vs *values) rarest(uses map[headerIs]int) (is headerIs, ok bool) {
	for _, v := range vs.all {
		if at := (headerIs{v.name, v.text}); v.pattern == nil && (!ok || uses[at] < uses[is]) {
			is, ok = at, true
		}
	}
	return is, ok
}

// first returns the candidate of the highest precedence that matches by more than its path, nil if none does.
func (l *list) first(r *Request) *candidate {
	if l == nil {
		return nil
	}
	if l.byHeader == nil {
		for _, c := range l.all {
			if c.matches(r) {
				return c
			}
		}
		return nil
	}
	best := len(l.all)
	best = l.firstOf(l.rest, best, r)
	for _, name := range l.names {
		if text, ok := r.header(name); ok {
			best = l.firstOf(l.byHeader[headerIs{name, text}], best, r)
		}
	}
	if best == len(l.all) {
		return nil
	}
	return l.all[best]
}

// firstOf returns the first place that is before best and matches, best if there is none.
func (l *list) firstOf(places []int32, best int, r *Request) int {
	for _, i := range places {
		if int(i) >= best {
			break
		}
		if l.all[i].matches(r) {
			return int(i)
		}
	}
	return best
}

// header returns what a request's header says, false if it has none. The lines of a repeated one are taken as one, joined
// by ", " (RFC 9110, section 5.2). Host is the host without port.
func (r *Request) header(name string) (string, bool) {
	if name == "Host" {
		return r.Host, true
	}
	switch lines := r.Header[name]; len(lines) {
	case 0:
		return "", false
	case 1:
		return lines[0], true
	default:
		return strings.Join(lines, ", "), true
	}
}
