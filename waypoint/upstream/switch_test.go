package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
)

// TestNothingFollowsARequestForAnotherProtocol: if the endpoint does not switch, servers differ in what they take the next
// bytes for.
func TestNothingFollowsARequestForAnotherProtocol(t *testing.T) {
	upgrade, connect := get("/"), get("/")
	upgrade.Header.Set("Connection", "Upgrade")
	upgrade.Header.Set("Upgrade", "h2c")
	connect.Method = http.MethodConnect
	for name, asks := range map[string]*http.Request{"Upgrade": upgrade, "CONNECT": connect} {
		t.Run(name, func(t *testing.T) {
			f := newField(t)
			f.pod("a", "10.0.0.1", nil)
			conns := make(chan int, 10)
			rude(t, f, "10.0.0.1", func(n int, c net.Conn, r *bufio.Reader) {
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					conns <- n
					_, _ = io.WriteString(c, "HTTP/1.1 405 No\r\nContent-Length: 2\r\n\r\nno")
				}
			})
			f.publish()
			for i, r := range []*http.Request{get("/"), asks, get("/"), get("/")} {
				if got, err := f.do(f.ask(), r); got != "no" || err != nil {
					t.Fatalf("request %d: %q, %v", i, got, err)
				}
			}
			if a, b, c, d := <-conns, <-conns, <-conns, <-conns; a != b || c == b || d != c {
				t.Errorf("requests came by connections %d, %d, %d and %d: want none behind the second", a, b, c, d)
			}
			eventually(t, "the connection is closed", func() bool { return f.metric("warren_waypoint_endpoint_connections", "http1") == 1 })
		})
	}
}
