// Package peers sets up what Warren is measured beside: pairs of proxies with mutual TLS between them, configured as
// somebody who knows them would, with as many workers as there are cores. Each proxy runs in the network namespace of the
// pod that it serves, as Warren's own sockets do, so nobody's path has a hop that another's lacks.
//
// All use TLS 1.3 with TLS_AES_128_GCM_SHA256, which is what Go and Envoy choose by themselves; only Istio's ztunnel cannot be
// told, and uses TLS_AES_256_GCM_SHA384.
package peers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Ports of a pair, in the pods of the client and of the server.
const (
	ClientPort  = 7100 // on loopback, what the client dials
	tunnelPort  = 7443 // on the server's pod, what the client's proxy dials
	BackendPort = 7000 // the server
)

// Command starts a proxy.
type Command struct {
	Argv []string
	Env  map[string]string
}

// Pair is one peer: a proxy beside the client and one beside the server.
type Pair struct {
	Name    string
	Version string
	Pooled  bool   // connections travel in tunnels that are there before
	Tunnel  uint16 // the port of the server's proxy
	// Transparent says that the client dials the server itself; else it is its proxy, on ClientPort.
	Transparent bool
	// Server and Client write what their proxy needs into a folder of its own.
	Server func(dir string, self netip.Addr) (Command, error)
	Client func(dir string, self, server netip.Addr) (Command, error)
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// version runs a binary and returns what follows after in its first line, or why it cannot be.
func version(ctx context.Context, binary, flag, after string) (path, v string, err error) {
	if path, err = exec.LookPath(binary); err != nil {
		return "", "", fmt.Errorf("%s is not installed: %w", binary, errors.Unwrap(err))
	}
	out, err := exec.CommandContext(ctx, path, flag).CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	_, rest, _ := strings.Cut(first, after)
	v, _, _ = strings.Cut(strings.TrimSpace(rest), " ")
	return path, v, nil
}

// NGINX is a pair of stream proxies.
func NGINX(ctx context.Context, k Keys) (Pair, error) {
	binary, v, err := version(ctx, "nginx", "-v", "nginx/")
	if err != nil {
		return Pair{}, err
	}
	start := func(dir, server string) (Command, error) {
		file := filepath.Join(dir, "nginx.conf")
		return Command{Argv: []string{binary, "-p", dir, "-c", file}}, write(file, []byte(fmt.Sprintf(nginxConf, runtime.NumCPU(), dir, server)))
	}
	return Pair{
		Name: "nginx", Version: "nginx " + v, Tunnel: tunnelPort,
		Server: func(dir string, self netip.Addr) (Command, error) {
			return start(dir, fmt.Sprintf(nginxServer, netip.AddrPortFrom(self, tunnelPort), k.Cert, k.Key, k.CA, loopback(BackendPort)))
		},
		Client: func(dir string, _, server netip.Addr) (Command, error) {
			return start(dir, fmt.Sprintf(nginxClient, loopback(ClientPort), netip.AddrPortFrom(server, tunnelPort), k.Cert, k.Key, k.CA, serverName))
		},
	}, nil
}

const (
	nginxConf = `load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes %d;
pid %s/nginx.pid;
error_log stderr warn;
events { worker_connections 16384; }
stream {
  access_log off;
  proxy_connect_timeout 5s;
  proxy_timeout 10m;
  proxy_half_close on;
  server {
%s  }
}
`
	nginxServer = `    listen %s ssl backlog=4096;
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_client_certificate %s;
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_session_cache shared:tls:10m;
    proxy_pass %s;
`
	nginxClient = `    listen %s backlog=4096;
    proxy_pass %s;
    proxy_ssl on;
    proxy_ssl_certificate %s;
    proxy_ssl_certificate_key %s;
    proxy_ssl_trusted_certificate %s;
    proxy_ssl_name %s;
    proxy_ssl_verify on;
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    proxy_ssl_session_reuse on;
`
)

// HAProxy is a pair in mode tcp.
func HAProxy(ctx context.Context, k Keys) (Pair, error) {
	binary, v, err := version(ctx, "haproxy", "-v", "version ")
	if err != nil {
		return Pair{}, err
	}
	start := func(dir, bind, server string) (Command, error) {
		file := filepath.Join(dir, "haproxy.cfg")
		return Command{Argv: []string{binary, "-db", "-f", file}}, write(file, []byte(fmt.Sprintf(haproxyConf, runtime.NumCPU(), bind, server)))
	}
	return Pair{
		Name: "haproxy", Version: "HAProxy " + v, Tunnel: tunnelPort,
		Server: func(dir string, self netip.Addr) (Command, error) {
			return start(dir, fmt.Sprintf("%s ssl crt %s ca-file %s verify required", netip.AddrPortFrom(self, tunnelPort), k.Both, k.CA),
				loopback(BackendPort).String())
		},
		Client: func(dir string, _, server netip.Addr) (Command, error) {
			return start(dir, loopback(ClientPort).String(), fmt.Sprintf("%s ssl crt %s ca-file %s verify required sni str(%s) verifyhost %s",
				netip.AddrPortFrom(server, tunnelPort), k.Both, k.CA, serverName, serverName))
		},
	}, nil
}

const haproxyConf = `global
  nbthread %d
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode tcp
  timeout connect 5s
  timeout client 10m
  timeout server 10m
frontend in
  bind %s
  default_backend out
backend out
  server next %s
`
