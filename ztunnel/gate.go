package ztunnel

import "github.com/warren-mesh/warren/ztunnel/peer"

// handshakeLimits bound connections whose peer has proved nothing yet. Each costs a file descriptor, a goroutine and up to
// HandshakeTimeout. An honest peer's pool dials a few at once.
func handshakeLimits() peer.Limits {
	return peer.Limits{PerPair: 64, PerSource: 256, PerPod: 1024}
}

// tunnelLimits bound tunnels that are up, used or idle. A peer of ours has a handful to each pod; one of Istio's has one
// for each 100 of its connections. A pod has as many peers as it has.
func tunnelLimits() peer.Limits { return peer.Limits{PerPair: 256, PerSource: 1024} }
