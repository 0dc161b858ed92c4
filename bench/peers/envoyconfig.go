package peers

import (
	"maps"
	"net/netip"
)

// Envoy's API as far as it is used; see https://www.envoyproxy.io/docs/envoy/latest/api-v3/api.
const (
	typeHCM         = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	typeRouter      = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
	typeTCP         = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	typeDownstream  = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	typeUpstream    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	typeHTTPOptions = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

	unlimited = 1 << 30
)

// Object is a piece of Envoy's configuration.
type Object = map[string]any

// EnvoyConfig is what one Envoy listens on and forwards to. All else is as Envoy has it by default: as many workers as
// CPUs, no access log.
type EnvoyConfig struct {
	Listeners, Clusters []any
}

func (c EnvoyConfig) bootstrap() Object {
	return Object{"static_resources": Object{"listeners": c.Listeners, "clusters": c.Clusters}}
}

func addressOf(a netip.AddrPort) Object {
	return Object{"socket_address": Object{"address": a.Addr().String(), "port_value": a.Port()}}
}

// Listener has one filter, behind TLS if that is not nil.
func Listener(at netip.AddrPort, filter, tls Object) Object {
	chain := Object{"filters": []any{filter}}
	if tls != nil {
		chain["transport_socket"] = tls
	}
	return Object{"address": addressOf(at), "filter_chains": []any{chain}}
}

// Cluster has one endpoint, behind TLS if that is not nil. Envoy's own limits of connections and requests do not apply.
func Cluster(name string, to netip.AddrPort, tls Object) Object {
	c := Object{
		"name": name, "type": "STATIC", "connect_timeout": "5s",
		"circuit_breakers": Object{"thresholds": []any{Object{
			"max_connections": unlimited, "max_pending_requests": unlimited, "max_requests": unlimited,
		}}},
		"load_assignment": Object{"cluster_name": name, "endpoints": []any{
			Object{"lb_endpoints": []any{Object{"endpoint": Object{"address": addressOf(to)}}}},
		}},
	}
	if tls != nil {
		c["transport_socket"] = tls
	}
	return c
}

// TCPTo forwards bytes.
func TCPTo(cluster string) Object {
	return Object{"name": "tcp", "typed_config": Object{"@type": typeTCP, "stat_prefix": "tcp", "cluster": cluster}}
}

// HTTP is a connection manager with one virtual host for every name.
func HTTP(routes []any, more Object) Object {
	config := Object{
		"@type": typeHCM, "stat_prefix": "http",
		"route_config": Object{"virtual_hosts": []any{Object{"name": "all", "domains": []any{"*"}, "routes": routes}}},
		"http_filters": []any{Object{"name": "router", "typed_config": Object{"@type": typeRouter}}},
	}
	maps.Copy(config, more)
	return Object{"name": "http", "typed_config": config}
}

// connectTo forwards bytes in a stream of HTTP/2 that CONNECT opened.
func connectTo(cluster string, authority netip.AddrPort) Object {
	return Object{"name": "tcp", "typed_config": Object{
		"@type": typeTCP, "stat_prefix": "tcp", "cluster": cluster, "tunneling_config": Object{"hostname": authority.String()},
	}}
}

// connected takes such streams.
func connected(cluster string) Object {
	route := Object{"match": Object{"connect_matcher": Object{}}, "route": Object{
		"cluster": cluster, "timeout": "0s", "upgrade_configs": []any{Object{"upgrade_type": "CONNECT", "connect_config": Object{}}},
	}}
	return HTTP([]any{route}, Object{
		"codec_type": "HTTP2", "http2_protocol_options": Object{"allow_connect": true}, "stream_idle_timeout": "0s",
		"upgrade_configs": []any{Object{"upgrade_type": "CONNECT"}},
	})
}

// OverHTTP2 makes a cluster speak it, by prior knowledge.
func OverHTTP2(cluster Object) Object {
	cluster["typed_extension_protocol_options"] = Object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Object{
		"@type": typeHTTPOptions, "explicit_http_config": Object{"http2_protocol_options": Object{}},
	}}
	return cluster
}

// Accepting is mutual TLS 1.3 for those who connect.
func (k Keys) Accepting() Object {
	return Object{"name": "tls", "typed_config": Object{
		"@type": typeDownstream, "require_client_certificate": true, "common_tls_context": k.context(),
	}}
}

// Dialing is mutual TLS 1.3 towards those who are connected to.
func (k Keys) Dialing() Object {
	return Object{"name": "tls", "typed_config": Object{"@type": typeUpstream, "common_tls_context": k.context()}}
}

func (k Keys) context() Object {
	return Object{
		"tls_params":         Object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"tls_certificates":   []any{Object{"certificate_chain": Object{"filename": k.Cert}, "private_key": Object{"filename": k.Key}}},
		"validation_context": Object{"trusted_ca": Object{"filename": k.CA}},
	}
}
