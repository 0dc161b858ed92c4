package waypoint

import (
	"net"
	"testing"
)

// interopCases are those of gRPC's interoperability tests that need no credentials of a cloud, by the names that gRPC's
// documents and its own client give them. pick_first_unary wants a server that knows its name, which the plain one does not.
var interopCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "custom_metadata",
	"status_code_and_message", "special_status_message", "unimplemented_method", "unimplemented_service",
	"orca_per_rpc", "orca_oob", "rpc_soak", "channel_soak",
}

// interopFlags let the soak tests end soon, and have the client read what servers report of their load.
var interopFlags = []string{
	"-soak_iterations=20", "-soak_overall_timeout_seconds=50", "-soak_max_failures=0", "-soak_per_iteration_max_acceptable_latency_ms=10000",
	`-service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`,
}

// TestGRPCInterop: gRPC's own client and server pass each of their cases through a waypoint, whether the port says what
// it speaks or not.
func TestGRPCInterop(t *testing.T) {
	server := tool(t, "grpc", "google.golang.org/grpc/interop/server")
	client := tool(t, "grpc", "google.golang.org/grpc/interop/client")
	m := up(t, "", far)
	background(t, m, farPod, 9000, server, "-port=9000")
	for says, port := range map[string]uint16{"grpc": farGRPC, "h2c": farH2C, "nothing": farSilent} {
		host, number, err := net.SplitHostPort(m.VIP(farService, port))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range interopCases {
			t.Run(says+"/"+name, func(t *testing.T) {
				argv := append([]string{client, "-server_host=" + host, "-server_port=" + number, "-test_case=" + name}, interopFlags...)
				r := m.With(t).Run("shop/web", argv...)
				if r.Code != 0 {
					t.Errorf("exit code %d: %s%s", r.Code, r.Out, r.Err)
				}
			})
		}
	}
}
