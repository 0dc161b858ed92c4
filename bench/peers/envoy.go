package peers

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
)

// EnvoyCommand writes a configuration into a folder and says how to start Envoy with it.
func EnvoyCommand(binary, dir string, cfg EnvoyConfig) (Command, error) {
	text, err := json.MarshalIndent(cfg.bootstrap(), "", " ")
	if err != nil {
		return Command{}, err
	}
	file := filepath.Join(dir, "envoy.json")
	return Command{Argv: []string{binary, "-c", file, "--disable-hot-restart", "-l", "warn"}}, write(file, text)
}

// EnvoyTCP is a pair with a connection of TLS for each of the client's.
func EnvoyTCP(binary, version string, k Keys) Pair {
	return Pair{
		Name: "envoy", Version: "Envoy " + version, Tunnel: tunnelPort,
		Server: func(dir string, self netip.Addr) (Command, error) {
			return EnvoyCommand(binary, dir, EnvoyConfig{
				Listeners: []any{Listener(netip.AddrPortFrom(self, tunnelPort), TCPTo("backend"), k.Accepting())},
				Clusters:  []any{Cluster("backend", loopback(BackendPort), nil)},
			})
		},
		Client: func(dir string, _, server netip.Addr) (Command, error) {
			return EnvoyCommand(binary, dir, EnvoyConfig{
				Listeners: []any{Listener(loopback(ClientPort), TCPTo("server"), nil)},
				Clusters:  []any{Cluster("server", netip.AddrPortFrom(server, tunnelPort), k.Dialing())},
			})
		},
	}
}

// EnvoyCONNECT is a pair with streams of HTTP/2 on pooled connections of TLS, as HBONE has them.
func EnvoyCONNECT(binary, version string, k Keys) Pair {
	return Pair{
		Name: "envoy CONNECT", Version: "Envoy " + version, Tunnel: tunnelPort, Pooled: true,
		Server: func(dir string, self netip.Addr) (Command, error) {
			return EnvoyCommand(binary, dir, EnvoyConfig{
				Listeners: []any{Listener(netip.AddrPortFrom(self, tunnelPort), connected("backend"), k.Accepting())},
				Clusters:  []any{Cluster("backend", loopback(BackendPort), nil)},
			})
		},
		Client: func(dir string, _, server netip.Addr) (Command, error) {
			return EnvoyCommand(binary, dir, EnvoyConfig{
				Listeners: []any{Listener(loopback(ClientPort), connectTo("server", netip.AddrPortFrom(server, BackendPort)), nil)},
				Clusters:  []any{OverHTTP2(Cluster("server", netip.AddrPortFrom(server, tunnelPort), k.Dialing()))},
			})
		},
	}
}
