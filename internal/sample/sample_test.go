package sample

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serveTCP runs a TCP server until the test ends and returns its address.
func serveTCP(t *testing.T, mode string) string {
	t.Helper()
	l, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- NewTCPServer(mode, io.Discard).Serve(ctx, []net.Listener{l}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort("127.0.0.1", port)
}

func talk(t *testing.T, target, data string) string {
	t.Helper()
	var out bytes.Buffer
	if err := runClient(t.Context(), &out, target, clientOptions{data: data, timeout: 5 * time.Second, repeat: 1}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTCPModes(t *testing.T) {
	for mode, want := range map[string]string{
		modeEcho: "hello", modeDiscard: "5\n", modeBanner: "hello, I speak first\nhello",
	} {
		if got := talk(t, serveTCP(t, mode), "hello"); got != want {
			t.Errorf("%s answers %q, want %q", mode, got, want)
		}
	}
}

func TestPeerModeSaysWhomItSees(t *testing.T) {
	target := serveTCP(t, modePeer)
	conn, err := net.Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	me := conn.LocalAddr().String()
	if want := "accept=" + me + " getpeername=" + me + " local=" + target + "\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestChargenEndsWithItsClient(t *testing.T) {
	conn, err := net.Dial("tcp", serveTCP(t, modeChargen))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 600)
	if _, err := io.ReadFull(conn, buf); err != nil {
		t.Fatal(err)
	}
	for i, b := range buf {
		if b != byte(i%251) {
			t.Fatalf("byte %d is %d, want %d", i, b, i%251)
		}
	}
}

// serveWeb runs the HTTP server until the test ends and returns its URL.
func serveWeb(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewHTTPServer("shop")
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

func TestHTTPEchoesTheRequest(t *testing.T) {
	url := serveWeb(t)
	var echo Echo
	var out bytes.Buffer
	o := clientOptions{data: "body", timeout: 5 * time.Second, repeat: 1, headers: []string{"X-Test: yes"}}
	if err := runClient(t.Context(), &out, url+"/path?q=1", o); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &echo); err != nil {
		t.Fatal(err)
	}
	if echo.Service != "shop" || echo.Method != "POST" || echo.URL != "/path?q=1" || echo.Body != "body" || echo.Headers.Get("X-Test") != "yes" {
		t.Errorf("echo is %+v", echo)
	}
	if !strings.HasPrefix(echo.RemoteAddr, "127.0.0.1:") || echo.RemoteAddr != echo.PeerName || "http://"+echo.LocalAddr != url {
		t.Errorf("addresses are %s, %s and %s", echo.RemoteAddr, echo.PeerName, echo.LocalAddr)
	}
}

func TestHTTPPaths(t *testing.T) {
	url := serveWeb(t)
	for path, want := range map[string]struct {
		code int
		size int
	}{
		"/healthz": {200, 3}, "/bytes?n=100000": {200, 100000}, "/bytes?n=0": {200, 0}, "/bytes?n=-1": {400, -1},
		"/bytes?n=99999999999": {400, -1}, "/stream?n=2": {200, 4}, "/stream?n=x": {400, -1}, "/status?code=503": {503, 0}, "/status?code=700": {400, -1},
	} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != want.code || want.size >= 0 && len(body) != want.size {
			t.Errorf("%s: %s with %d bytes, %v; want %d with %d", path, resp.Status, len(body), err, want.code, want.size)
		}
	}
}

func TestLoadCountsWhatSucceedsAndWhatDoesNot(t *testing.T) {
	url := serveWeb(t)
	for path, want := range map[string]string{"/healthz": " 0 failed", "/status?code=500": "0 ok"} {
		var out bytes.Buffer
		l := Load{URL: url + path, Connections: 2, Rate: 100, Duration: 300 * time.Millisecond}
		if err := l.Run(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), want) || strings.HasPrefix(out.String(), "0 ok, 0 failed") {
			t.Errorf("%s: %q, want %q and some requests", path, out.String(), want)
		}
	}
	for _, bad := range []Load{{Connections: 0, Rate: 1}, {Connections: 1, Rate: 0}, {Connections: maxConnections + 1, Rate: 1}, {Connections: 1, Rate: maxRate + 1}} {
		if err := bad.Run(t.Context(), io.Discard); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

func TestPercentiles(t *testing.T) {
	var r result
	for i := range 1000 {
		r.add(time.Duration(i+1)*time.Millisecond, nil)
	}
	for p, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second} {
		if got := r.percentile(p); got < want*97/100 || got > want*103/100 {
			t.Errorf("percentile %g is %s, want about %s", p, got, want)
		}
	}
}
