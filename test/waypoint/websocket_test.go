package waypoint

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/warren-mesh/warren/internal/labtest"
)

// TestWebSocket: a WebSocket holds over thousands of messages and a silence, and ends on both sides whoever closes it.
func TestWebSocket(t *testing.T) {
	m := up(t, "", far)
	ended := make(chan error, 16)
	mux := http.NewServeMux()
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
	serveFar(t, m, mux)
	for says, port := range map[string]uint16{"http": farHTTP, "ws": farWS, "nothing": farSilent} {
		t.Run(says, func(t *testing.T) {
			m := m.With(t)
			ws := dialWebSocket(t, m, port)
			echoes(t, ws, 2000)
			time.Sleep(4 * time.Second) // the silence itself, no effect that is waited for
			echoes(t, ws, 100)
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
