package policy

import "slices"

// index finds those rules of many policies that may match a connection by something that it has: its peer, its source
// address, its port, its host or path. What is found is asked in full, so an index decides nothing.
type index struct {
	rules []indexedRule // in order of precedence
	rest  []int32       // of rules: those that nothing leads to
	peers map[peerKey][]int32
	ports map[uint16][]int32
	// Blocks by their prefix, masked, and the lengths that there are of each family.
	blocks           map[addrKey][]int32
	bits4, bits6     []int
	hosts, paths     map[string][]int32
	hostEnds, starts affixes
}

type indexedRule struct {
	policy *compiled
	rule   *compiledRule
}

// affixes are texts that another ends, or begins, with.
type affixes struct {
	byText  map[string][]int32
	lengths []int
}

// survey asks the rules that may match, and adds the first of each action that does.
func (x *index) survey(f *findings, who *subject) {
	var room [32][]int32
	const none = 1 << 30
	first := [Custom + 1]int32{none, none, none, none, none}
	var audits []int32
	for _, found := range x.candidates(room[:0], who) {
		for _, i := range found {
			r := &x.rules[i]
			action := r.policy.policy.Action
			switch {
			case i >= first[action], action == Custom && who.passed(r.policy.policy.External),
				r.rule.mismatch(who, action) != "":
			case action == Audit:
				audits = append(audits, i)
			default:
				first[action] = i
			}
		}
	}
	if i := first[Custom]; i != none && f.custom == nil {
		f.custom, f.external = x.rules[i].rule, x.rules[i].policy.policy.External
	}
	if i := first[Deny]; i != none && f.deny == nil {
		f.deny = x.rules[i].rule
	}
	if i := first[Allow]; i != none && f.allow == nil {
		f.allow = x.rules[i].rule
	}
	x.audited(f, audits)
}

// audited notes the first rule that matched of each AUDIT policy, in their order.
func (x *index) audited(f *findings, rules []int32) {
	slices.Sort(rules)
	var last *compiled
	for _, i := range rules {
		if r := x.rules[i]; r.policy != last {
			f.audit, last = joined(f.audit, r.rule.title), r.policy
		}
	}
}

// candidates appends the lists of rules that something of the connection leads to.
func (x *index) candidates(found [][]int32, who *subject) [][]int32 {
	found = append(found, x.rest)
	if !who.Src.IsZero() {
		namespace, account := who.Src.Namespace(), who.Src.ServiceAccount()
		found = add(found, x.peers[peerKey{namespace, account}])
		found = add(found, x.peers[peerKey{namespace: namespace}])
		found = add(found, x.peers[peerKey{account: account}])
	}
	if len(x.ports) > 0 {
		found = add(found, x.ports[who.Dst.Port()])
	}
	found = x.blocksOf(found, who)
	if who.request == nil {
		return found
	}
	found = add(found, x.hosts[who.host])
	for _, n := range x.hostEnds.lengths {
		if n <= len(who.host) {
			found = add(found, x.hostEnds.byText[who.host[len(who.host)-n:]])
		}
	}
	path := who.request.Path
	found = add(found, x.paths[path])
	for _, n := range x.starts.lengths {
		if n <= len(path) {
			found = add(found, x.starts.byText[path[:n]])
		}
	}
	return found
}

func (x *index) blocksOf(found [][]int32, who *subject) [][]int32 {
	lengths := x.bits6
	if who.SrcAddr.Is4() {
		lengths = x.bits4
	}
	for _, bits := range lengths {
		if block, err := who.SrcAddr.Prefix(bits); err == nil { // an address that is not known has none
			found = add(found, x.blocks[keyOfBlock(block)])
		}
	}
	return found
}

func add(found [][]int32, more []int32) [][]int32 {
	if len(more) == 0 {
		return found
	}
	return append(found, more)
}
