package publish

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// scope is whom a resource is for at one version. The zero scope is nobody: also that of a resource that is not there.
type scope struct {
	everybody bool
	audiences []string // sorted
}

func (c *content) scopeOf(key string) scope {
	if _, there := c.encoded[key]; !there {
		return scope{}
	}
	to, some := c.audience[key]
	return scope{everybody: !some, audiences: to}
}

func (s scope) equal(o scope) bool {
	return s.everybody == o.everybody && slices.Equal(s.audiences, o.audiences)
}

// includes tells whether somebody who is known by audiences gets the resource.
func (s scope) includes(audiences []string) bool {
	if s.everybody {
		return true
	}
	for _, a := range audiences {
		if _, ok := slices.BinarySearch(s.audiences, a); ok {
			return true
		}
	}
	return false
}

// turn is what became of one key between two versions.
type turn struct {
	key      string
	was, now scope
	changed  bool // the content did at some time between
}

// verb is what a receiver is told about a key.
type verb int

const (
	nothing verb = iota
	set
	remove
)

// forAll returns what everybody is told alike. Who has the resource already may be told again, so that it can be said
// to all at once.
func (t turn) forAll() verb {
	switch {
	case t.now.everybody && (t.changed || !t.was.everybody):
		return set
	case t.was.everybody && !t.now.everybody && len(t.now.audiences) == 0:
		return remove
	}
	return nothing
}

// forOne returns what a receiver is told in particular: nobody is told twice about one key.
func (t turn) forOne(audiences []string) verb {
	if t.forAll() != nothing {
		return nothing
	}
	had, has := t.was.includes(audiences), t.now.includes(audiences)
	switch {
	case has && (!had || t.changed):
		return set
	case had && !has:
		return remove
	}
	return nothing
}

// delta is everything that becomes of a base: an update's beginning, which everybody gets, and what it goes on with for
// whom.
type delta struct {
	*content
	shared []byte
	turns  []turn           // sorted by key
	own    map[string][]int // by audience: those of turns that may say something to it in particular
	split  []int            // those that were for everybody and are not any more, which everybody must be told
	size   int              // about how much memory it takes

	parts map[string][]byte // by audiences, of those that were asked for before; nil if asked once
}

// build encodes what everybody gets, and notes what is left.
func (d *delta) build() {
	slices.SortFunc(d.turns, func(a, b turn) int { return cmp.Compare(a.key, b.key) })
	size := 0
	for _, t := range d.turns {
		size += d.sizeOf(t.key, t.forAll())
	}
	d.shared = slices.Grow(d.shared, size)
	for i, t := range d.turns {
		if v := t.forAll(); v != nothing {
			d.shared = d.say(d.shared, t.key, v)
			continue
		}
		if t.was.everybody && !t.now.everybody {
			d.split = append(d.split, i)
			continue
		}
		for _, a := range union(t.was.audiences, t.now.audiences) {
			d.own[a] = append(d.own[a], i)
			d.size += 8
		}
	}
	const turnSize = 96 // with a slice header a scope
	d.size += len(d.shared) + turnSize*len(d.turns)
}

// union returns the elements of two sorted lists, sorted.
func union(a, b []string) []string {
	if len(a) == 0 || slices.Equal(a, b) {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// part returns what a receiver gets beside what everybody gets. A part that is asked for again is kept, for receivers
// that are known by the same audiences, if it has no more than room bytes; kept is how many it took. Of nodes each is
// an audience of its own, and asks once.
func (d *delta) part(audiences []string, room int) (b []byte, kept int) {
	of := slices.Clone(d.split)
	for _, a := range audiences {
		of = append(of, d.own[a]...)
	}
	if len(of) == 0 {
		return nil, 0
	}
	name := strings.Join(audiences, "\x00")
	b, asked := d.parts[name]
	if b != nil {
		return b, 0
	}
	slices.Sort(of)
	of = slices.Compact(of)
	size := 0
	for _, i := range of {
		t := d.turns[i]
		size += d.sizeOf(t.key, t.forOne(audiences))
	}
	b = make([]byte, 0, size)
	for _, i := range of {
		t := d.turns[i]
		b = d.say(b, t.key, t.forOne(audiences))
	}
	if len(b) > room {
		return b, 0
	}
	if !asked {
		d.parts[name] = nil
		return b, 0
	}
	d.parts[name] = b
	return b, len(b)
}

// The numbers of warren.mesh.v1.Update's fields. A message may be encoded in parts, one behind the other: what occurs
// again of a repeated field is appended.
const (
	fieldEpoch    protowire.Number = 1
	fieldBase     protowire.Number = 2
	fieldVersion  protowire.Number = 3
	fieldSet      protowire.Number = 4
	fieldRemoved  protowire.Number = 5
	fieldCompiled protowire.Number = 6
)

// appendHead begins an update.
func appendHead(b []byte, epoch string, base uint64, to *content) []byte {
	b = protowire.AppendTag(b, fieldEpoch, protowire.BytesType)
	b = protowire.AppendString(b, epoch)
	b = protowire.AppendTag(b, fieldBase, protowire.VarintType)
	b = protowire.AppendVarint(b, base)
	b = protowire.AppendTag(b, fieldVersion, protowire.VarintType)
	b = protowire.AppendVarint(b, to.version)
	b = protowire.AppendTag(b, fieldCompiled, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(to.compiled.UnixNano()))
}

// say says one thing about a key.
func (d *delta) say(b []byte, key string, v verb) []byte {
	switch v {
	case set:
		b = protowire.AppendTag(b, fieldSet, protowire.BytesType)
		return protowire.AppendBytes(b, d.encoded[key])
	case remove:
		b = protowire.AppendTag(b, fieldRemoved, protowire.BytesType)
		return protowire.AppendString(b, key)
	}
	return b
}

func (d *delta) sizeOf(key string, v verb) int {
	switch v {
	case set:
		return protowire.SizeTag(fieldSet) + protowire.SizeBytes(len(d.encoded[key]))
	case remove:
		return protowire.SizeTag(fieldRemoved) + protowire.SizeBytes(len(key))
	}
	return 0
}
