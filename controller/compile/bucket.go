package compile

import (
	"hash/fnv"
	"slices"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
)

// maxBucket is how many endpoints travel together.
const maxBucket = 32

// maxDepth is where endpoints are not told apart any more: that many bits of hash.
const maxDepth = 64

// spreadEndpoints takes the endpoints of services that have more than maxBucket out of them, into resources of their
// own, so that a change of one does not send them all.
//
// Buckets are the leaves of a binary tree over the bits of a hash of who an endpoint is: one that holds more than
// maxBucket is split by the next bit. So they depend on nothing but the set of endpoints, and one more or less changes
// the bucket that it is in, or splits that one in two or joins it with its sibling, and never any other. A number of
// buckets that follows from the number of endpoints would do without a tree, and reshuffle all of them each time that
// it changes: for a service that is scaled to and fro across the limit, every time.
func spreadEndpoints(resources map[string]*meshv1.Resource) {
	var large []*meshv1.Service
	for _, r := range resources {
		if svc := r.GetService(); len(svc.GetEndpoints()) > maxBucket {
			large = append(large, svc)
		}
	}
	for _, svc := range large {
		all := make([]hashed, len(svc.GetEndpoints()))
		for i, ep := range svc.GetEndpoints() {
			all[i] = hashed{ep, hashOf(ep)}
		}
		svc.Endpoints = nil
		split(all, "", func(name string, of []hashed) {
			wire := &meshv1.Endpoints{Namespace: svc.GetNamespace(), Service: svc.GetName(), Slice: name}
			for _, h := range of {
				wire.Endpoints = append(wire.Endpoints, h.Endpoint)
			}
			r := resource.Endpoints(wire)
			resources[r.GetKey()] = r
		})
	}
}

type hashed struct {
	*meshv1.Endpoint
	hash uint64
}

// split calls leaf with every bucket and its name, the bits that its endpoints' hashes begin with. The order of all is
// kept in the buckets.
func split(all []hashed, name string, leaf func(string, []hashed)) {
	switch {
	case len(all) == 0:
		return
	case len(all) <= maxBucket || len(name) == maxDepth:
		leaf(name, all)
		return
	}
	bit := uint64(1) << (maxDepth - 1 - len(name))
	var halves [2][]hashed
	for _, h := range all {
		i := 0
		if h.hash&bit != 0 {
			i = 1
		}
		halves[i] = append(halves[i], h)
	}
	split(halves[0], name+"0", leaf)
	split(halves[1], name+"1", leaf)
}

// hashOf is the hash of who an endpoint is, whatever its state: of its workload, or of its address if it is none's.
func hashOf(ep *meshv1.Endpoint) uint64 {
	h := fnv.New64a()
	if uid := ep.GetWorkloadUid(); uid != "" {
		_, _ = h.Write([]byte(uid)) // never fails
	} else {
		_, _ = h.Write(slices.Concat(ep.GetAddresses()...))
	}
	// FNV's high bits hardly depend on the last bytes, by which addresses and uids differ: mix them (MurmurHash3's
	// finalizer).
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}
