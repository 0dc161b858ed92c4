//go:build !race

package meshtest

// Race tells that the race detector watches: what is done ten thousand times is done fewer times then.
const Race = false
