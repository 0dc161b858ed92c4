package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// key is something that a connection or a request may have. Only one of its parts is set.
type key struct {
	field field
	peer  peerKey
	block addrKey
	port  uint16
	text  string
}

type field uint8

const (
	byPeer field = iota
	byBlock
	byPort
	byHost
	byHostEnd
	byPath
	byPathStart
)

// peerKey is a peer's namespace, its account, or both. The trust domain is left to the rule.
type peerKey struct{ namespace, account string }

// addrKey is a block's first address and its length: netip.Prefix itself takes longer to hash, for its zone.
type addrKey struct {
	addr [16]byte
	bits uint8
	v4   bool
}

func keyOfBlock(p netip.Prefix) addrKey {
	return addrKey{p.Addr().As16(), uint8(p.Bits()), p.Addr().Is4()}
}

// A rule is an "and" of clauses, a clause an "or" of terms: its sources, its operations, a condition. A term has options:
// each is a set of keys of which everything that matches the term has one. A term without options can match what has
// no key; one with an empty option matches nothing.
type (
	clause []term
	term   []option
	option []key
)

// newIndex indexes policies, for requests that somebody has read or for connections.
func newIndex(policies []*compiled, read bool) *index {
	x := &index{peers: map[peerKey][]int32{}, ports: map[uint16][]int32{}, blocks: map[addrKey][]int32{},
		hosts: map[string][]int32{}, paths: map[string][]int32{}}
	var clauses [][]clause
	uses := map[key]int{}
	for _, p := range policies {
		for i := range p.rules {
			x.rules = append(x.rules, indexedRule{p, &p.rules[i]})
			its := p.rules[i].clauses(p.policy.Action, read)
			count(uses, its)
			clauses = append(clauses, its)
		}
	}
	byKey := map[key][]int32{}
	for i, its := range clauses {
		keys, ok := rarest(its, uses)
		if !ok {
			x.rest = append(x.rest, int32(i))
		}
		for _, k := range keys {
			if all := byKey[k]; len(all) == 0 || all[len(all)-1] != int32(i) {
				byKey[k] = append(all, int32(i))
			}
		}
	}
	for k, rules := range byKey {
		x.put(k, rules)
	}
	return x
}

func count(uses map[key]int, clauses []clause) {
	for _, c := range clauses {
		for _, t := range c {
			for _, o := range t {
				for _, k := range o {
					uses[k]++
				}
			}
		}
	}
}

// rarest returns the keys of the clause whose most used key is the least used; false if no clause has keys.
func rarest(clauses []clause, uses map[key]int) (keys option, ok bool) {
	least := -1
	for _, c := range clauses {
		its, most, any := c.rarest(uses)
		if any && (least < 0 || most < least) {
			keys, least = its, most
		}
	}
	return keys, least >= 0
}

func (c clause) rarest(uses map[key]int) (keys option, most int, ok bool) {
	for _, t := range c {
		best, least := option(nil), -1
		for _, o := range t {
			n := 0
			for _, k := range o {
				n = max(n, uses[k])
			}
			if least < 0 || n < least {
				best, least = o, n
			}
		}
		if least < 0 {
			return nil, 0, false
		}
		most = max(most, least)
		keys = append(keys, best...)
	}
	return keys, most, len(c) > 0
}

func (x *index) put(k key, rules []int32) {
	switch k.field {
	case byPeer:
		x.peers[k.peer] = rules
	case byPort:
		x.ports[k.port] = rules
	case byBlock:
		x.blocks[k.block] = rules
		lengths, bits := &x.bits6, int(k.block.bits)
		if k.block.v4 {
			lengths = &x.bits4
		}
		if !slices.Contains(*lengths, bits) {
			*lengths = append(*lengths, bits)
		}
	case byHost:
		x.hosts[k.text] = rules
	case byPath:
		x.paths[k.text] = rules
	case byHostEnd:
		x.hostEnds.put(k.text, rules)
	case byPathStart:
		x.starts.put(k.text, rules)
	}
}

func (a *affixes) put(text string, rules []int32) {
	if a.byText == nil {
		a.byText = map[string][]int32{}
	}
	a.byText[text] = rules
	if !slices.Contains(a.lengths, len(text)) {
		a.lengths = append(a.lengths, len(text))
	}
}

func (r *compiledRule) clauses(action Action, read bool) []clause {
	var from, to clause
	for i := range r.from {
		from = append(from, r.from[i].term(action, read))
	}
	for i := range r.to {
		to = append(to, r.to[i].term(action, read))
	}
	out := []clause{from, to}
	for i := range r.when {
		out = append(out, clause{r.when[i].term(action, read)})
	}
	return out
}

func (s *source) term(action Action, read bool) term {
	if s.asksToken && !read && action == Allow {
		return never()
	}
	var t term
	t = addOption(t, s.principals, keyOfPrincipal)
	t = addOption(t, s.namespaces, func(p pattern) (key, bool) {
		return key{field: byPeer, peer: peerKey{namespace: p.text}}, p.kind == exact
	})
	t = addOption(t, s.accounts, keyOfAccount)
	return addOption(t, s.blocks, func(b netip.Prefix) (key, bool) { return key{field: byBlock, block: keyOfBlock(b)}, true })
}

// never is the term of what cannot match.
func never() term { return term{{}} }

func (o *operation) term(action Action, read bool) term {
	if o.asksRequests && !read && action == Allow {
		return never()
	}
	t := addOption(nil, o.ports, func(port uint16) (key, bool) { return key{field: byPort, port: port}, true })
	if !read {
		return t
	}
	t = addOption(t, o.hosts, keyOfHost)
	return addOption(t, o.paths, keyOfPath)
}

func (c *condition) term(action Action, read bool) term {
	switch {
	case c.from != nil:
		return c.from.term(action, read)
	case c.to != nil:
		return c.to.term(action, read)
	case !read && action == Allow:
		return never()
	}
	return nil
}

// addOption adds the keys of a field's values, if each has one.
func addOption[T any](t term, values []T, keyOf func(T) (key, bool)) term {
	if len(values) == 0 {
		return t
	}
	keys := make(option, 0, len(values))
	for _, v := range values {
		k, ok := keyOf(v)
		if !ok {
			return t
		}
		keys = append(keys, k)
	}
	return append(t, keys)
}

// keyOfPrincipal reads <trust domain>/ns/<namespace>/sa/<account>, of whose parts none has a slash.
func keyOfPrincipal(p pattern) (key, bool) {
	parts := strings.Split(p.text, "/")
	switch {
	case p.kind == exact && len(parts) == 5:
		return key{field: byPeer, peer: peerKey{parts[2], parts[4]}}, true
	case p.kind == prefix && len(parts) >= 4:
		return key{field: byPeer, peer: peerKey{namespace: parts[2]}}, true
	case p.kind == suffix && len(parts) >= 2:
		return key{field: byPeer, peer: peerKey{account: parts[len(parts)-1]}}, parts[len(parts)-1] != ""
	}
	return key{}, false
}

func keyOfAccount(a account) (key, bool) {
	var k peerKey
	if a.namespace.kind == exact {
		k.namespace = a.namespace.text
	}
	if a.name.kind == exact {
		k.account = a.name.text
	}
	return key{field: byPeer, peer: k}, k != peerKey{}
}

func keyOfHost(p pattern) (key, bool) {
	switch p.kind {
	case exact:
		return key{field: byHost, text: p.text}, true
	case suffix:
		return key{field: byHostEnd, text: p.text}, true
	}
	return key{}, false
}

func keyOfPath(p pattern) (key, bool) {
	switch p.kind {
	case exact:
		return key{field: byPath, text: p.text}, true
	case prefix:
		return key{field: byPathStart, text: p.text}, true
	case template:
		return key{field: byPathStart, text: p.text[:strings.IndexByte(p.text+"{", '{')]}, true
	}
	return key{}, false
}
