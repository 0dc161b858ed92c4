package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// upgrader switches to a protocol that gives back what it gets, in upper case.
func upgrader() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Upgrade") == "" {
			http.Error(w, "no upgrade", http.StatusUpgradeRequired)
			return
		}
		c, in, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+q.Header.Get("Upgrade")+"\r\n\r\n")
		buf := make([]byte, 1024)
		for {
			n, err := in.Read(buf)
			_, _ = io.WriteString(c, strings.ToUpper(string(buf[:n])))
			if err != nil {
				return
			}
		}
	})
}

func TestAnUpgradedConnectionCarriesBytesBothWays(t *testing.T) {
	r := newRig(t, upgrader())
	r.timers = 200 * time.Millisecond
	r.route(route.Rule{Backends: to("shop/web"), Timeout: r.timers, BackendTimeout: r.timers}).start()
	for _, protocol := range []string{"websocket", "something/1"} {
		c, in := r.raw("GET /chat HTTP/1.1\r\nHost: web.shop\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\nearly ")
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != protocol {
			t.Fatalf("%v, %v", res, err)
		}
		expect(t, in, "EARLY ")
		time.Sleep(500 * time.Millisecond) // longer than the timeouts of the route and the server
		for range 3 {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\n\x00")
			expect(t, in, "GET / HTTP/1.1\n\x00")
		}
		_ = c.(*net.TCPConn).CloseWrite()
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("at the end came %q, %v", rest, err)
		}
		rec := r.record()
		if rec.Status != 101 || rec.Outcome != exchange.Answered || rec.BytesIn != 6+3*16 || rec.BytesOut != rec.BytesIn {
			t.Errorf("record: %s %d, %d in, %d out (%s)", rec.Outcome, rec.Status, rec.BytesIn, rec.BytesOut, rec.Detail)
		}
		if want := map[string]string{"websocket": "websocket"}[protocol]; want != "" && rec.Protocol != want {
			t.Errorf("the record's protocol is %q", rec.Protocol)
		}
	}
}

func expect(t *testing.T, in *bufio.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
		t.Fatalf("got %q, want %q, %v", got, want, err)
	}
}

func TestAnUpgradeThatDoesNotHappenEndsTheConnection(t *testing.T) {
	r := newRig(t, named("plain")).start()
	_, in := r.raw("GET / HTTP/1.1\r\nHost: web.shop\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" +
		"GET /smuggled HTTP/1.1\r\nHost: web.shop\r\n\r\n")
	b, err := io.ReadAll(in)
	if err != nil || strings.Count(string(b), "HTTP/1.1 200") != 1 || !strings.Contains(string(b), "Connection: close") {
		t.Errorf("got %q, %v", b, err)
	}
	if rec := r.record(); rec.Status != 200 {
		t.Errorf("record: %+v", rec)
	}
	r.nothingRecorded()
}

func TestConnectReachesABackendThatIsAProxy(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodConnect || q.Host != "far.example:443" {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if q.ProtoMajor == 2 {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			_, _ = io.Copy(flushing{w}, q.Body)
			return
		}
		c, in, _ := w.(http.Hijacker).Hijack()
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(c, in)
	})).start()
	c, in := r.raw("CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n\r\n")
	res, err := http.ReadResponse(in, &http.Request{Method: "CONNECT"})
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%v, %v", res, err)
	}
	_, _ = io.WriteString(c, "there and back")
	expect(t, in, "there and back")
	_ = c.Close()
	if rec := r.record(); rec.Method != "CONNECT" || rec.Host != "far.example:443" || rec.Status != 200 {
		t.Errorf("record: %+v", rec)
	}
	reader, writer := io.Pipe()
	req, _ := http.NewRequest("CONNECT", "http://web.shop", reader)
	req.Host, req.URL.Path = "far.example:443", ""
	res, err = r.client(true).Do(req)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%v, %v", res, err)
	}
	_, _ = io.WriteString(writer, "by a stream")
	expect(t, bufio.NewReader(res.Body), "by a stream")
	writer.Close()
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}
