package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/bench/load"
	"github.com/warren-mesh/warren/bench/peers"
)

// Ports of Envoys, one for each protocol.
const (
	httpPort = 8080
	grpcPort = 8081
)

// envoyRows are Envoy in its two places, and which Envoy it is. What is missing is in the rows.
func (s *stage) envoyRows(ctx context.Context, path string) ([]*row, string) {
	plain, mtls := &row{name: "envoy plain", routes: true}, &row{name: "envoy mtls", routes: true}
	rows := []*row{plain, mtls}
	binary, version, err := peers.FindEnvoy(ctx, path, s.Dir)
	if err != nil {
		plain.absent, mtls.absent = err, err
		return rows, "Envoy none: " + err.Error()
	}
	if err := s.addPlain(ctx, binary, plain); err != nil {
		plain.absent = fmt.Errorf("set up Envoy: %w", err)
	}
	if err := s.addChain(ctx, binary, mtls); err != nil {
		mtls.absent = fmt.Errorf("set up a chain of Envoys: %w", err)
	}
	return rows, "Envoy " + version
}

// routed is the waypoint's route in Envoy's words, to the clusters of a protocol.
func routed(p protocol) peers.Object {
	name := func(backend string) string { return backend + "-" + string(p) }
	byHeader := peers.Object{
		"match": peers.Object{"prefix": "/", "headers": []any{peers.Object{"name": header, "string_match": peers.Object{"exact": "two"}}}},
		"route": peers.Object{"cluster": name("two")},
	}
	byWeight := peers.Object{"match": peers.Object{"prefix": "/"}, "route": peers.Object{"weighted_clusters": peers.Object{"clusters": []any{
		peers.Object{"name": name("one"), "weight": 90}, peers.Object{"name": name("two"), "weight": 10},
	}}}}
	return peers.HTTP([]any{byHeader, byWeight}, nil)
}

// clusters are both backends for both protocols.
func clusters(one, two netip.AddrPort, tls peers.Object) []any {
	return []any{
		peers.Cluster("one-http", one, tls), peers.Cluster("two-http", two, tls),
		peers.OverHTTP2(peers.Cluster("one-grpc", one, tls)), peers.OverHTTP2(peers.Cluster("two-grpc", two, tls)),
	}
}

func everywhere(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), port) }

// addPlain puts one Envoy between the bare client and backends.
func (s *stage) addPlain(ctx context.Context, binary string, r *row) error {
	one, two, err := s.backends()
	if err != nil {
		return err
	}
	addr, err := s.addEnvoy(ctx, binary, "envoy-plain", "n1", r, peers.EnvoyConfig{
		Listeners: []any{peers.Listener(everywhere(httpPort), routed(overHTTP), nil), peers.Listener(everywhere(grpcPort), routed(overGRPC), nil)},
		Clusters:  clusters(one, two, nil),
	})
	if err != nil {
		return err
	}
	return s.through(r, addr)
}

// through makes an Envoy what the bare client connects to.
func (s *stage) through(r *row, first netip.Addr) error {
	ns, err := s.Lab.PodNetNS("bare/client")
	r.to = map[protocol]load.Target{
		overHTTP: {NetNS: ns, Address: netip.AddrPortFrom(first, httpPort).String()},
		overGRPC: {NetNS: ns, Address: netip.AddrPortFrom(first, grpcPort).String()},
	}
	return err
}

// addChain puts three Envoys where the waypoint's row has agent, waypoint and agent, from the backends to the client.
func (s *stage) addChain(ctx context.Context, binary string, r *row) error {
	one, two, err := s.backends()
	if err != nil {
		return err
	}
	k, err := peers.MakeKeys(s.Dir)
	if err != nil {
		return err
	}
	last, err := s.addEnvoy(ctx, binary, "envoy-server", "n2", r, peers.EnvoyConfig{
		Listeners: []any{
			peers.Listener(everywhere(9001), peers.TCPTo("one"), k.Accepting()), peers.Listener(everywhere(9002), peers.TCPTo("two"), k.Accepting()),
		},
		Clusters: []any{peers.Cluster("one", one, nil), peers.Cluster("two", two, nil)},
	})
	if err != nil {
		return err
	}
	middle, err := s.addEnvoy(ctx, binary, "envoy-http", "n1", r, peers.EnvoyConfig{
		Listeners: []any{
			peers.Listener(everywhere(httpPort), routed(overHTTP), k.Accepting()), peers.Listener(everywhere(grpcPort), routed(overGRPC), k.Accepting()),
		},
		Clusters: clusters(netip.AddrPortFrom(last, 9001), netip.AddrPortFrom(last, 9002), k.Dialing()),
	})
	if err != nil {
		return err
	}
	first, err := s.addEnvoy(ctx, binary, "envoy-client", "n1", r, peers.EnvoyConfig{
		Listeners: []any{peers.Listener(everywhere(httpPort), peers.TCPTo("http"), nil), peers.Listener(everywhere(grpcPort), peers.TCPTo("grpc"), nil)},
		Clusters: []any{
			peers.Cluster("http", netip.AddrPortFrom(middle, httpPort), k.Dialing()), peers.Cluster("grpc", netip.AddrPortFrom(middle, grpcPort), k.Dialing()),
		},
	})
	if err != nil {
		return err
	}
	slices.Reverse(r.path)
	return s.through(r, first)
}

func (s *stage) backends() (one, two netip.AddrPort, err error) {
	a, err := s.Addr("bare/one")
	if err != nil {
		return one, two, err
	}
	b, err := s.Addr("bare/two")
	return netip.AddrPortFrom(a, serverPort), netip.AddrPortFrom(b, serverPort), err
}

// addEnvoy starts an Envoy in a pod of its own outside the mesh, puts it on the row's path and returns its address.
func (s *stage) addEnvoy(ctx context.Context, binary, name, node string, r *row, cfg peers.EnvoyConfig) (netip.Addr, error) {
	dir := filepath.Join(s.Dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return netip.Addr{}, err
	}
	cmd, err := peers.EnvoyCommand(binary, dir, cfg)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := s.AddPod(ctx, name, node, cmd.Argv); err != nil {
		return netip.Addr{}, err
	}
	r.passes(s.Pod(strings.Replace(name, "-", " ", 1), "bare/"+name))
	return s.Addr("bare/" + name)
}
