package route

import "math/bits"

// Choose returns one of the rule's backends by weight, by a random number; nil if none has weight.
func (r *Rule) Choose(n uint32) *Backend {
	var total uint64
	for i := range r.Backends {
		total += uint64(r.Backends[i].Weight)
	}
	// n is a fraction of 2^32: the high word of n*2^32*total is where in the weights it points to.
	at, _ := bits.Mul64(uint64(n)<<32, total)
	for i := range r.Backends {
		b := &r.Backends[i]
		if at < uint64(b.Weight) {
			return b
		}
		at -= uint64(b.Weight)
	}
	return nil
}
