package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/gateway-api/conformance/utils/echo"
)

// listen serves on a port of the kernel's choice until the test ends, and returns host:port.
func listen(t *testing.T, serve func(net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() { _ = serve(ln) }()
	return ln.Addr().String()
}

func asked(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := ask(context.Background(), args, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTheSuiteReadsAnAnswer(t *testing.T) {
	at := listen(t, httpServer("echo-v1-abc").Serve)
	got := echo.ParseResponse(asked(t, "http://"+at+"/a?q=1", "--method=PUT", "-H", "Host:other:81", "-H", "X-Twice:1", "-H", "X-Twice:2"))
	if got.Code != "200" || got.Hostname != "echo-v1-abc" || got.Method != "PUT" || got.Host != "other:81" || got.URL != "/a?q=1" ||
		strings.Join(got.RequestHeaders.Values("X-Twice"), " ") != "1 2" || got.ResponseHeaders.Get("Content-Type") != "text/plain" {
		t.Errorf("%+v", got)
	}
}

func TestTheSuiteReadsAGRPCAnswer(t *testing.T) {
	at := listen(t, grpcServer("echo-v2-abc").Serve)
	got := echo.ParseResponse(asked(t, "grpc://"+at, "-H", "X-One:1"))
	if got.Code != "200" || got.Hostname != "echo-v2-abc" || got.Host != at || got.RequestHeaders.Get("X-One") != "1" ||
		!strings.HasSuffix(got.Method, "GrpcEcho/Echo") {
		t.Errorf("%+v", got)
	}
}

func TestAGRPCMethodIsNamedByThePath(t *testing.T) {
	at := listen(t, grpcServer("echo-v2-abc").Serve)
	for path, method := range map[string]string{"": "/Echo", "/Echo": "/Echo", "/EchoTwo": "/EchoTwo", "/EchoThree": "/EchoThree"} {
		if got := echo.ParseResponse(asked(t, "grpc://"+at+path)); !strings.HasSuffix(got.Method, "GrpcEcho"+method) {
			t.Errorf("%s: %s", path, got.Method)
		}
	}
}

func TestAnAnswerComesAsLateAsAsked(t *testing.T) {
	at, start := listen(t, httpServer("echo-v1-abc").Serve), time.Now()
	if asked(t, "http://"+at+"/?delay=150ms"); time.Since(start) < 150*time.Millisecond {
		t.Errorf("after %v", time.Since(start))
	}
}

func TestTheFirstRequestsOfAnIDFailAsAsked(t *testing.T) {
	at := listen(t, httpServer("echo-v1-abc").Serve)
	for i, want := range []string{"503", "503", "200"} {
		out := asked(t, "http://"+at+"/?fail=2", "-H", "X-Id:a")
		if got := echo.ParseResponse(out).Code; got != want || want == "200" && !strings.Contains(out, "Seen=3\n") {
			t.Errorf("request %d: %s\n%s", i+1, got, out)
		}
	}
}

// A batch is cut at empty lines.
func TestEveryAnswerOfABatchIsABlock(t *testing.T) {
	at := listen(t, httpServer("echo-v1-abc").Serve)
	blocks := strings.Split(strings.TrimSpace(asked(t, "http://"+at+"/", "--count=20")), "\n\n")
	if len(blocks) != 20 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for _, b := range blocks {
		if echo.ParseResponse(b).Hostname != "echo-v1-abc" {
			t.Errorf("%s", b)
		}
	}
}

func TestARedirectIsAnAnswer(t *testing.T) {
	at := listen(t, (&http.Server{Handler: http.RedirectHandler("http://example.org/", http.StatusFound)}).Serve)
	got := echo.ParseResponse(asked(t, "http://"+at+"/"))
	if got.Code != strconv.Itoa(http.StatusFound) || got.ResponseHeaders.Get("Location") != "http://example.org/" {
		t.Errorf("%+v", got)
	}
}

func TestNobodyThereIsAnError(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1:1/", "grpc://127.0.0.1:1"} {
		if err := ask(context.Background(), []string{url}, &bytes.Buffer{}); err == nil {
			t.Errorf("%s answered", url)
		}
	}
}

func TestTheServerTakesTheManifestsArguments(t *testing.T) {
	l, err := parseListeners([]string{"--tcp=9090", "--port=8080", "--grpc=7070", "--port=8443", "--tls=8443", "--crt=/cert.crt", "--key=/cert.key"})
	if err != nil || len(l.http) != 2 || len(l.tls) != 1 || l.grpc[0] != 7070 || l.tcp[0] != 9090 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestTCPAndTLSAreAnswered(t *testing.T) {
	conn, err := net.Dial("tcp", listen(t, func(ln net.Listener) error { return serveTCP(ln, "echo-v1-abc") }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("hello\n"))
	var b [256]byte
	n, _ := conn.Read(b[:])
	if echo.ParseResponse(string(b[:n])).Hostname != "echo-v1-abc" {
		t.Errorf("%q", b[:n])
	}
	at := listen(t, serveTLS("echo-v1-abc"))
	resp, err := http.Get("http://" + at) // plain HTTP to a TLS port is told so
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("%+v, %v", resp, err)
	}
}
