package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/warren-mesh/warren/bench/peers"
	"github.com/warren-mesh/warren/bench/scene"
)

// Names of peers' rows.
const (
	nginxRow   = "nginx"
	haproxyRow = "haproxy"
	envoyRow   = "envoy"
	connectRow = "envoy CONNECT"
	ztunnelRow = "ztunnel"
)

// peer is a row to be, or why it will not be one.
type peer struct {
	row  string
	pair peers.Pair
	err  error
}

// findPeers looks for those that are asked for.
func (s *stage) findPeers(ctx context.Context, o options) (out []peer, err error) {
	keys, err := peers.MakeKeys(s.dir)
	if err != nil {
		return nil, err
	}
	add := func(row string, make func() (peers.Pair, error)) {
		if o.wants(row) {
			pair, err := make()
			out = append(out, peer{row, pair, err})
		}
	}
	add(nginxRow, func() (peers.Pair, error) { return peers.NGINX(ctx, keys) })
	add(haproxyRow, func() (peers.Pair, error) { return peers.HAProxy(ctx, keys) })
	if o.wants(envoyRow) || o.wants(connectRow) {
		binary, version, err := peers.FindEnvoy(ctx, o.envoy, s.dir)
		add(envoyRow, func() (peers.Pair, error) { return peers.EnvoyTCP(binary, version, keys), err })
		add(connectRow, func() (peers.Pair, error) { return peers.EnvoyCONNECT(binary, version, keys), err })
	}
	if o.ztunnel != "" {
		add(ztunnelRow, func() (peers.Pair, error) { return peers.Ztunnel(ctx, o.ztunnel) })
	}
	return out, nil
}

// peerRows brings the peers up, each in two pods of its own.
func (s *stage) peerRows(ctx context.Context, sc *scene.Scene, o options) (rows []*row, versions []string, err error) {
	found, err := s.findPeers(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range found {
		r := &row{name: p.row, base: bareFar, tunnel: p.pair.Tunnel, pooled: p.pair.Pooled, absent: p.err}
		if p.err == nil {
			if !strings.Contains(strings.Join(versions, ", "), p.pair.Version) {
				versions = append(versions, p.pair.Version)
			}
			if err := s.addPair(ctx, sc, p.pair, r); err != nil {
				r.fail(fmt.Errorf("set up %s: %w", p.row, err))
			} else if r.absent == nil {
				r.fail(s.settled(ctx, sc, p.pair, r))
			}
		}
		rows = append(rows, r)
	}
	return rows, versions, ctx.Err()
}

func (s *stage) addPair(ctx context.Context, sc *scene.Scene, pair peers.Pair, r *row) error {
	server, err := s.addProxy(ctx, sc, podName(pair, "server"), "n2", r, pair.Server)
	if err != nil {
		return err
	}
	_, err = s.addProxy(ctx, sc, podName(pair, "client"), "n1", r, func(dir string, self netip.Addr) (peers.Command, error) {
		return pair.Client(dir, self, server)
	})
	if err != nil {
		return err
	}
	if r.client, err = sc.Lab.PodNetNS("bare/" + podName(pair, "client")); err != nil {
		return err
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), peers.ClientPort)
	if pair.Transparent {
		to = netip.AddrPortFrom(server, peers.BackendPort)
	}
	r.address = to.String()
	return s.serve(ctx, sc, "bare/"+podName(pair, "server"))
}

// settled waits until a pair carries, and says what its proxies said if it never does.
func (s *stage) settled(ctx context.Context, sc *scene.Scene, pair peers.Pair, r *row) error {
	err := verify(ctx, r)
	if err != nil {
		err = fmt.Errorf("%w; the client's proxy: %s; the server's: %s", err,
			sc.PodLog("bare/"+podName(pair, "client")), sc.PodLog("bare/"+podName(pair, "server")))
	}
	return err
}

func podName(pair peers.Pair, side string) string {
	return strings.ToLower(strings.ReplaceAll(pair.Name, " ", "-")) + "-" + side
}

// addProxy starts a proxy in a pod. Its command waits for a file that says how: only once there is the pod, there is the
// address that goes into its configuration.
func (s *stage) addProxy(ctx context.Context, sc *scene.Scene, pod, node string, r *row, configure func(string, netip.Addr) (peers.Command, error)) (netip.Addr, error) {
	dir := filepath.Join(s.dir, pod)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return netip.Addr{}, err
	}
	script := filepath.Join(dir, "start")
	wait := fmt.Sprintf("until [ -e %s ]; do sleep 0.02; done; exec sh %s", script, script)
	if err := sc.AddPod(ctx, pod, node, []string{"sh", "-c", wait}); err != nil {
		return netip.Addr{}, err
	}
	self, err := sc.Addr("bare/" + pod)
	if err != nil {
		return netip.Addr{}, err
	}
	c, err := configure(dir, self)
	if err != nil {
		return netip.Addr{}, err
	}
	temporary := script + ".new"
	err = errors.Join(os.WriteFile(temporary, []byte(shell(c)), 0o600), os.Rename(temporary, script))
	r.passes(sc.Pod(pod, "bare/"+pod))
	return self, err
}

// shell is a command as a script, in which nothing is special.
func shell(c peers.Command) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	var words []string
	for k, v := range c.Env {
		words = append(words, "export "+k+"="+quote(v)+"\n")
	}
	words = append(words, "exec")
	for _, a := range c.Argv {
		words = append(words, quote(a))
	}
	return strings.Join(words, " ") + "\n"
}
