package waypoint

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

// streamServer is the app behind the tests of this file.
type streamServer struct {
	next  chan struct{} // lets the next event go
	hang  chan struct{} // closed when slow answers may come
	asked chan struct{} // one for each request that hangs
}

func newStreamServer() *streamServer {
	return &streamServer{next: make(chan struct{}), hang: make(chan struct{}), asked: make(chan struct{}, 1000)}
}

func (s *streamServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	mux.HandleFunc("/events", s.events)
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %s %v %v", n, hex.EncodeToString(sum.Sum(nil)), err, r.TransferEncoding)
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusExpectationFailed) })
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-After")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-After", r.Trailer.Get("X-Before"))
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "yes")
	})
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for block := make([]byte, 64<<10); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		s.asked <- struct{}{}
		select {
		case <-s.hang:
		case <-r.Context().Done():
		}
	})
	return mux
}

// events sends one event whenever it is told to.
func (s *streamServer) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_ = http.NewResponseController(w).Flush()
	for i := range 10 {
		select {
		case <-s.next:
		case <-r.Context().Done():
			return
		}
		fmt.Fprintf(w, "data: %d\n\n", i)
		_ = http.NewResponseController(w).Flush()
	}
}

// TestStreams: what is streamed is passed on as it comes, and nobody waits for somebody else who is slow.
func TestStreams(t *testing.T) {
	m := up(t, "", far)
	s := newStreamServer()
	serveFar(t, m, s.handler())
	t.Run("events", func(t *testing.T) { s.testEvents(t, m.With(t)) })
	t.Run("continue", func(t *testing.T) { testContinue(t, m.With(t)) })
	t.Run("trailers", func(t *testing.T) { testTrailers(t, m.With(t)) })
	t.Run("HTTP/1.0", func(t *testing.T) { testOldHTTP(t, m.With(t)) })
	t.Run("upload", func(t *testing.T) { testUpload(t, m.With(t)) })
	t.Run("slow", func(t *testing.T) { s.testSlow(t, m.With(t)) })
}

// farClient is a client of far in a pod, by HTTP/1.1 or by HTTP/2 with prior knowledge.
func farClient(m *labtest.Mesh, port uint16, h2 bool) *http.Client {
	c := m.Client("shop/web", m.VIP(farService, port))
	c.Timeout = 2 * time.Minute
	if h2 {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		c.Transport.(*http.Transport).Protocols = &protocols
	}
	return c
}

// testEvents: each event is there before the next is sent.
func (s *streamServer) testEvents(t *testing.T, m *labtest.Mesh) {
	for _, h2 := range []bool{false, true} {
		res, err := farClient(m, farSilent, h2).Get("http://far.shop/events")
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(res.Body)
		for i := range 10 {
			s.next <- struct{}{}
			if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) || !lines.Scan() {
				t.Fatalf("event %d is %q, %v", i, lines.Text(), lines.Err())
			}
		}
		if lines.Scan() || lines.Err() != nil {
			t.Errorf("after the last event: %q, %v", lines.Text(), lines.Err())
		}
		_ = res.Body.Close()
	}
}

// dialFar connects from web, for those who speak byte by byte.
func dialFar(t *testing.T, m *labtest.Mesh, port uint16) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := m.Dial(t.Context(), "shop/web", m.VIP(farService, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn, bufio.NewReader(conn)
}

// testContinue: who expects to be told to go on is, if and only if the app wants the body.
func testContinue(t *testing.T, m *labtest.Mesh) {
	conn, r := dialFar(t, m, farHTTP)
	fmt.Fprint(conn, "POST /sum HTTP/1.1\r\nHost: far\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if line, err := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 100 ") || err != nil {
		t.Fatalf("told %q, %v", line, err)
	}
	_, _ = r.ReadString('\n')
	fmt.Fprint(conn, "hello")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	sum := sha256.Sum256([]byte("hello"))
	if want := "5 " + hex.EncodeToString(sum[:]); !strings.HasPrefix(string(body), want) {
		t.Errorf("summed up as %q, want %q", body, want)
	}
	conn, r = dialFar(t, m, farHTTP)
	fmt.Fprint(conn, "POST /refuse HTTP/1.1\r\nHost: far\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if line, err := r.ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 417 ") || err != nil {
		t.Errorf("an app that refuses the body: %q, %v", line, err)
	}
}

// testTrailers: trailers pass both ways, announced or not.
func testTrailers(t *testing.T, m *labtest.Mesh) {
	for _, h2 := range []bool{false, true} {
		req, err := http.NewRequest(http.MethodPost, "http://far.shop/trailers", io.MultiReader(strings.NewReader("body")))
		if err != nil {
			t.Fatal(err)
		}
		req.Trailer = http.Header{"X-Before": {"sent"}}
		res, err := farClient(m, farSilent, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "body" || err != nil || res.Trailer.Get("X-After") != "sent" || res.Trailer.Get("X-Unannounced") != "yes" {
			t.Errorf("HTTP/2 %v: %q, %v, trailers %v", h2, body, err, res.Trailer)
		}
	}
}

// testOldHTTP: a client of HTTP/1.0 gets an answer that it understands.
func testOldHTTP(t *testing.T, m *labtest.Mesh) {
	conn, r := dialFar(t, m, farHTTP)
	fmt.Fprint(conn, "GET /trailers HTTP/1.0\r\nHost: far\r\n\r\n")
	all, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(all), "HTTP/1.0 200 ") || strings.Contains(strings.ToLower(string(all)), "chunked") {
		t.Errorf("answered %q, %v", all, err)
	}
	conn, r = dialFar(t, m, farHTTP)
	for range 3 {
		fmt.Fprint(conn, "GET /hello HTTP/1.0\r\nHost: far\r\nConnection: keep-alive\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != "hello" || err != nil || res.Close {
			t.Fatalf("kept alive: %q, %v, closes: %v", body, err, res.Close)
		}
	}
}

// testUpload: 200 MiB of unknown length arrive whole, and the waypoint holds little of it at a time.
func testUpload(t *testing.T, m *labtest.Mesh) {
	const size = 200 << 20
	most := atMost(120 << 20)
	for _, h2 := range []bool{false, true} {
		sum := sha256.New()
		random := rand.NewChaCha8([32]byte{1})
		body := io.TeeReader(io.LimitReader(random, size), sum)
		res, err := farClient(m, farSilent, h2).Post("http://far.shop/sum", "application/octet-stream", io.MultiReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if want := fmt.Sprintf("%d %s <nil>", size, hex.EncodeToString(sum.Sum(nil))); !strings.HasPrefix(string(got), want) || err != nil {
			t.Errorf("HTTP/2 %v: %q, %v; want %q", h2, got, err, want)
		}
		if peak := memory(t, m, "VmHWM"); peak > most {
			t.Errorf("HTTP/2 %v: the waypoint took %d MiB", h2, peak>>20)
		} else {
			t.Logf("HTTP/2 %v: the waypoint took at most %d MiB", h2, peak>>20)
		}
	}
}

// atMost is how much memory a waypoint may take that without the race detector, which keeps notes of all memory, takes that
// many bytes.
func atMost(bytes int) int {
	if labtest.RaceEnabled {
		return 5 * bytes
	}
	return bytes
}

// memory is a field of the waypoint's /proc/PID/status, in bytes.
func memory(t *testing.T, m *labtest.Mesh, field string) int {
	t.Helper()
	procs, err := m.PodProcesses("shop/waypoint-0")
	if err != nil || len(procs) != 1 {
		t.Fatalf("the waypoint's processes: %v, %v", procs, err)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", procs[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kib int
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			if _, err := fmt.Sscan(rest, &kib); err == nil {
				return kib << 10
			}
		}
	}
	t.Fatalf("no %s in\n%s", field, raw)
	return 0
}

// testSlow: clients that do not read, and answers that do not come, keep nobody else waiting, on a connection of its own
// or, with HTTP/2, on theirs.
func (s *streamServer) testSlow(t *testing.T, m *labtest.Mesh) {
	const each = 50
	clients := []*http.Client{farClient(m, farSilent, false), farClient(m, farSilent, true)}
	clients[0].Transport.(*http.Transport).MaxConnsPerHost = 0
	var task sync.WaitGroup
	for _, c := range clients {
		for range each {
			res, err := c.Get("http://far.shop/endless")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close() // and it is not read
			task.Go(func() {
				res, err := c.Get("http://far.shop/hang")
				if err != nil {
					t.Error(err)
					return
				}
				_ = res.Body.Close()
			})
		}
	}
	for range each * len(clients) {
		wait(t, s.asked)
	}
	for i, c := range clients {
		for range 100 {
			res, err := c.Get("http://far.shop/hello")
			if err != nil {
				t.Fatalf("client %d: %v", i, err)
			}
			if body, err := io.ReadAll(res.Body); string(body) != "hello" || err != nil {
				t.Errorf("client %d: %q, %v", i, body, err)
			}
			_ = res.Body.Close()
		}
	}
	if took := memory(t, m, "VmRSS"); took > atMost(400<<20) {
		t.Errorf("the waypoint took %d MiB with %d slow clients", took>>20, each*len(clients))
	} else {
		t.Logf("%d MiB with %d slow clients and as many slow answers", took>>20, each*len(clients))
	}
	close(s.hang)
	task.Wait()
}
