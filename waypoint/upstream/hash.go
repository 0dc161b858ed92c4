package upstream

import (
	"net/http"

	"github.com/warren-mesh/warren/route"
)

// The hash of a request and that of an endpoint make a score, and the endpoint with the highest score gets the request
// (rendezvous hashing, Thaler and Ravishankar 1998). Without an endpoint, only its own requests go elsewhere, spread
// over all others. Hashes are the same in all replicas of a waypoint.

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

// hashString is FNV-1a. It says nothing about who could have chosen the string: whoever may send requests may choose
// the endpoint that they go to.
func hashString(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return h
}

// mix spreads a hash over all bits (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// hash is the workload's, so that it is the same at its IPv4 and its IPv6 address, and after a change of its port.
func (k peerKey) hash() uint64 {
	if k.uid != "" {
		return mix(hashString(fnvOffset, string(k.uid)))
	}
	return mix(hashString(fnvOffset, k.addr.String()))
}

// highest returns the entry with the highest score for a key, nil if there is none.
func highest(entries []*entry, key uint64) *entry {
	var best *entry
	var top uint64
	for _, e := range entries {
		if score := mix(e.hash ^ key); best == nil || score > top {
			best, top = e, score
		}
	}
	return best
}

// hashKey is what a request is hashed by; false if it has not got it: then it goes where it fares best. No cookie is
// made for one who has none: that is what a route's session is for.
func (a *Ask) hashKey(lb *route.LoadBalancing) (uint64, bool) {
	var value string
	switch {
	case lb.HashHeader != "":
		value = headerOf(a.Request, lb.HashHeader)
	case lb.HashCookie != "":
		value = cookieOf(a.Request, lb.HashCookie)
	case lb.HashQuery != "":
		value = queryOf(a.Request, lb.HashQuery)
	case lb.HashSource && a.Conn != nil:
		return a.clientHash(), true
	}
	return mix(hashString(fnvOffset, value)), value != ""
}

// clientHash is the client's, by its workload or else its address.
func (a *Ask) clientHash() uint64 {
	if w := a.Conn.Workload; w != nil {
		return mix(hashString(fnvOffset, string(w.UID)))
	}
	ip := a.Conn.ClientAddr.Addr().As16()
	return mix(hashString(fnvOffset, string(ip[:])))
}

func headerOf(r *http.Request, name string) string {
	if r == nil {
		return ""
	}
	if http.CanonicalHeaderKey(name) == "Host" {
		return r.Host
	}
	return r.Header.Get(name)
}

func cookieOf(r *http.Request, name string) string {
	if r == nil {
		return ""
	}
	if c, err := r.Cookie(name); err == nil {
		return c.Value
	}
	return ""
}

func queryOf(r *http.Request, name string) string {
	if r == nil || r.URL == nil || r.URL.RawQuery == "" {
		return ""
	}
	return r.URL.Query().Get(name)
}
