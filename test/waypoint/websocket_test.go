package waypoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
	"github.com/warren-mesh/warren/lab"
)

// echoing answers WebSockets at /echo with what they say, until one says bye, and tells how each ended. /slow is an
// ordinary request that takes longer than any timeout here.
func echoing() (handler http.Handler, ended chan error) {
	ended = make(chan error, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.Handle("/echo", websocket.Handler(func(ws *websocket.Conn) {
		var message []byte
		for {
			if err := websocket.Message.Receive(ws, &message); err != nil {
				ended <- err
				return
			}
			if string(message) == "bye" {
				ended <- nil
				return // the library closes
			}
			if err := websocket.Message.Send(ws, message); err != nil {
				ended <- err
				return
			}
		}
	}))
	return mux, ended
}

// TestWebSocket: a WebSocket holds over thousands of messages, and ends on both sides whoever closes it.
func TestWebSocket(t *testing.T) {
	m := up(t, "", far)
	handler, ended := echoing()
	serveFar(t, m, handler)
	for says, port := range map[string]uint16{"http": farHTTP, "ws": farWS, "nothing": farSilent} {
		t.Run(says, func(t *testing.T) {
			m := m.With(t)
			ws := dialWebSocket(t, m, port)
			echoes(t, ws, 2000)
			if err := websocket.Message.Send(ws, []byte("bye")); err != nil {
				t.Fatal(err)
			}
			var left []byte
			if err := websocket.Message.Receive(ws, &left); !errors.Is(err, io.EOF) {
				t.Errorf("the server closed, and the client reads %q, %v", left, err)
			}
			if err := wait(t, ended); err != nil {
				t.Errorf("the server: %v", err)
			}
			other := dialWebSocket(t, m, port)
			echoes(t, other, 10)
			if err := other.Close(); err != nil {
				t.Error(err)
			}
			if err := wait(t, ended); !errors.Is(err, io.EOF) {
				t.Errorf("the client closed, and the server reads %v", err)
			}
		})
	}
}

// TestWebSocketOutlivesEverything: one that was open before goes on after a silence that is longer than the timers of
// seconds on its way (dials and handshakes 5 s, the sweep of unused connections 5 s, a tunnel's ping and its answer 15 s;
// those of minutes are let pass in the packages' own tests), which is longer too than its route allows a request and its
// tunnels' certificates live, while routes and policies change and the controller dies and comes back.
func TestWebSocketOutlivesEverything(t *testing.T) {
	const silence, ttl = 16 * time.Second, 6 * time.Second
	m := labtest.Up(t, longLife(0), func(o *lab.Options) { o.ControllerArgs = []string{"--workload-ttl", ttl.String()} })
	handler, _ := echoing()
	serveFar(t, m, handler)
	ordinary := m.Client("shop/web", m.VIP(farService, farHTTP))
	until(t, "the route's timeout ends an ordinary request", func() bool {
		res, err := ordinary.Get("http://far.shop/slow")
		return err == nil && res.Body.Close() == nil && res.StatusCode == http.StatusGatewayTimeout
	})
	var open []*websocket.Conn
	for _, port := range []uint16{farHTTP, farWS, farSilent} {
		ws := dialWebSocket(t, m, port)
		echoes(t, ws, 10)
		open = append(open, ws)
	}
	over := time.After(silence)
	before := serials(t, m)
	for i := range 5 {
		m.Write("mesh.yaml", longLife(i+1))
		until(t, "the change takes effect", func() bool {
			res, err := ordinary.Get("http://far.shop/echo")
			return err == nil && res.Body.Close() == nil && res.Header.Get("X-Change") == strconv.Itoa(i+1)
		})
	}
	if err := m.KillController(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := m.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-over
	for id, serial := range serials(t, m) {
		if before[id] == serial {
			t.Errorf("the certificate of %s was not renewed", id)
		}
	}
	for _, ws := range open {
		echoes(t, ws, 100)
	}
}

// longLife are manifests of which each version has another route to far, which ends requests after a second, and another
// policy.
func longLife(version int) string {
	return strings.Join([]string{fmt.Sprintf(shop, ""), far, fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: far, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: far, port: 80}, {group: "", kind: Service, name: far, port: 84}]
  rules:
  - timeouts: {request: 1s, backendRequest: 1s}
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Change, value: "%d"}]}}]
    backendRefs: [{name: far, port: 80}]
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: far, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: far}]
  rules:
  - from: [{source: {serviceAccounts: [web]}}]
    to: [{operation: {methods: [GET, M%d]}}]
`, version, version)}, "\n---\n")
}

// serials are those of the certificates of whoever the WebSockets' tunnels are between.
func serials(t *testing.T, m *labtest.Mesh) map[string]string {
	t.Helper()
	out := map[string]string{}
	until(t, "the certificates are known", func() bool {
		reply, err := m.Admin(m.ControllerSocket()).Certs(t.Context(), &adminv1.ListRequest{})
		if err != nil {
			return false // the controller has just come back
		}
		for _, c := range reply.Certs {
			for _, account := range []string{"web", "far", "waypoint"} {
				if c.SpiffeId == "spiffe://cluster.local/ns/shop/sa/"+account {
					out[account] = c.Serial
				}
			}
		}
		return len(out) == 3
	})
	return out
}

func dialWebSocket(t *testing.T, m *labtest.Mesh, port uint16) *websocket.Conn {
	t.Helper()
	config, err := websocket.NewConfig("ws://far.shop/echo", "http://far.shop/")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := m.Dial(t.Context(), "shop/web", m.VIP(farService, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// echoes sends n messages of many sizes and wants each back before the next.
func echoes(t *testing.T, ws *websocket.Conn, n int) {
	t.Helper()
	for i := range n {
		sent := bytes.Repeat([]byte{byte(i)}, 1+i*37%9000)
		if err := websocket.Message.Send(ws, sent); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		var back []byte
		if err := websocket.Message.Receive(ws, &back); err != nil || !bytes.Equal(back, sent) {
			t.Fatalf("message %d of %d bytes: %d came back, %v", i, len(sent), len(back), err)
		}
	}
}

// wait returns what comes from a channel, within half a minute.
func wait[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came within 30 s")
		panic("unreachable")
	}
}
