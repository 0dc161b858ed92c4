// Package bench measures what a connection through the mesh costs against the same connection without it, in one run:
//
//	go test ./bench -bench . -benchtime 3s -count 6
//
// Each benchmark has the rows bare (plain TCP between two pods' network namespaces on one bridge), local (both pods on
// one node: ztunnel in between, no TLS) and tunnel (pods of two nodes: HBONE, mutual TLS). Both nodes and both apps share
// the machine's cores, so read ratios between rows of one run, never a figure alone.
//
// What a request through a waypoint costs is measured by the command bench/waypoint.
package bench
