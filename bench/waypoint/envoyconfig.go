package main

import "net/netip"

// Envoy's API as far as it is used; see https://www.envoyproxy.io/docs/envoy/latest/api-v3/api.
const (
	typeHCM        = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	typeRouter     = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
	typeTCP        = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	typeDownstream = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	typeUpstream   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
)

type object = map[string]any

// envoyConfig is what one Envoy listens on and forwards to. All else is as Envoy has it by default: as many workers as
// CPUs, no access log.
type envoyConfig struct {
	listeners, clusters []any
}

func (c envoyConfig) bootstrap() object {
	return object{"static_resources": object{"listeners": c.listeners, "clusters": c.clusters}}
}

// at4 is where a cluster's only endpoint is.
type at4 struct {
	addr netip.Addr
	port uint16
}

func (a at4) object() object {
	return object{"socket_address": object{"address": a.addr.String(), "port_value": a.port}}
}

func listener(port uint16, filter, tls object) object {
	chain := object{"filters": []any{filter}}
	if tls != nil {
		chain["transport_socket"] = tls
	}
	return object{"address": at4{netip.IPv4Unspecified(), port}.object(), "filter_chains": []any{chain}}
}

func cluster(name string, to at4, tls object) object {
	c := object{
		"name": name, "type": "STATIC", "connect_timeout": "5s",
		"load_assignment": object{"cluster_name": name, "endpoints": []any{
			object{"lb_endpoints": []any{object{"endpoint": object{"address": to.object()}}}},
		}},
	}
	if tls != nil {
		c["transport_socket"] = tls
	}
	return c
}

func tcpTo(cluster string) object {
	return object{"name": "tcp", "typed_config": object{"@type": typeTCP, "stat_prefix": "tcp", "cluster": cluster}}
}

// routeByHTTP is the waypoint's route in Envoy's words.
func routeByHTTP() object {
	byHeader := object{
		"match": object{"prefix": "/", "headers": []any{object{"name": header, "string_match": object{"exact": "two"}}}},
		"route": object{"cluster": "two"},
	}
	byWeight := object{"match": object{"prefix": "/"}, "route": object{"weighted_clusters": object{"clusters": []any{
		object{"name": "one", "weight": 90}, object{"name": "two", "weight": 10},
	}}}}
	return object{"name": "http", "typed_config": object{
		"@type": typeHCM, "stat_prefix": "http",
		"route_config": object{"virtual_hosts": []any{
			object{"name": "all", "domains": []any{"*"}, "routes": []any{byHeader, byWeight}},
		}},
		"http_filters": []any{object{"name": "router", "typed_config": object{"@type": typeRouter}}},
	}}
}

// accepting is mutual TLS 1.3 for those who connect.
func (k keys) accepting() object {
	return object{"name": "tls", "typed_config": object{
		"@type": typeDownstream, "require_client_certificate": true, "common_tls_context": k.context(),
	}}
}

// dialing is mutual TLS 1.3 towards those who are connected to.
func (k keys) dialing() object {
	return object{"name": "tls", "typed_config": object{"@type": typeUpstream, "common_tls_context": k.context()}}
}

func (k keys) context() object {
	return object{
		"tls_params":         object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"tls_certificates":   []any{object{"certificate_chain": object{"filename": k.cert}, "private_key": object{"filename": k.key}}},
		"validation_context": object{"trusted_ca": object{"filename": k.ca}},
	}
}
