// Package bench measures what a connection through the mesh costs against the same connection without it, in one run. Here
// are Go benchmarks in one process, for looking at the data path while working on it:
//
//	go test ./bench -bench . -benchtime 3s -count 6
//
// Each has the rows bare (plain TCP between two pods' network namespaces on one bridge), local (both pods on one node:
// the first connection is ztunnel's, without TLS, and the next ones the kernel's) and tunnel (pods of two nodes: HBONE,
// mutual TLS). Both nodes and both apps share the machine's cores, so read ratios between rows of one run, never a figure alone.
//
// Figures that are published come from two commands, which run the shipped binaries in a lab of network namespaces:
//
//	bench/mesh      connections: bare TCP, Warren in all its ways, nginx, HAProxy, Envoy and Istio's ztunnel beside it
//	bench/waypoint  requests and calls through a waypoint: HTTP/1.1 and gRPC, Envoy with the same routes beside it
//
// bench/controller runs the controller alone, with a thousand agents that acknowledge what it tells them.
//
// What the first two share, from the outside in:
//
//	scene    a lab of this tree's binaries, servers in its pods
//	peers    pairs of others' proxies, with keys of a CA for this run
//	echo     what clients talk to
//	load     connections out of a namespace, closed loops, requests by the clock
//	proc     CPU by cgroups, memory by /proc
//	measure  rounds, histograms, spreads, ratios; tables, JSON, benchstat, SVG
package bench
