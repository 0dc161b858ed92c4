package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warren-mesh/warren/route"
)

var protocols = []struct {
	name  string
	http2 bool
}{{"HTTP/1.1", false}, {"HTTP/2", true}}

func TestRequestArrivesAsItIs(t *testing.T) {
	for _, tt := range protocols {
		t.Run(tt.name, func(t *testing.T) {
			f := newField(t)
			var seen *http.Request
			f.pod("a", "10.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				seen = r.Clone(context.Background())
				w.Header().Set("Trailer", "X-Sum")
				_, _ = fmt.Fprintf(w, "got %s", b)
				w.Header().Set("X-Sum", "42")
			}))
			f.publish()
			req := get("/p%2Fq?x=1")
			req.Method, req.Host, req.RequestURI = http.MethodPost, "shop.example", ""
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader("body")), -1
			req.Trailer = http.Header{"X-End": {"yes"}}
			req.Header.Set("Accept-Encoding", "br")
			ask := f.ask()
			ask.HTTP2 = tt.http2
			res, err := f.pick(ask).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			if string(b) != "got body" || err != nil || res.Trailer.Get("X-Sum") != "42" {
				t.Errorf("answer %q, %v, trailers %v", b, err, res.Trailer)
			}
			if seen.Host != "shop.example" || seen.RequestURI != "/p%2Fq?x=1" || seen.Proto[:6] != tt.name[:6] {
				t.Errorf("arrived: host %s, URI %s, %s", seen.Host, seen.RequestURI, seen.Proto)
			}
			if ua, ok := seen.Header["User-Agent"]; ok || seen.Header.Get("Accept-Encoding") != "br" {
				t.Errorf("arrived with user agent %v, headers %v", ua, seen.Header)
			}
			if seen.Trailer.Get("X-End") != "yes" {
				t.Errorf("arrived with trailers %v", seen.Trailer)
			}
			if _, ok := req.Header["User-Agent"]; ok {
				t.Error("the caller's header was changed")
			}
		})
	}
}

func TestConnectionIsUsedAgainAndThePickEndsWithTheAnswer(t *testing.T) {
	for _, tt := range protocols {
		t.Run(tt.name, func(t *testing.T) {
			f, ask := greeted(t, tt.http2)
			for range 50 {
				if got, err := f.do(ask, get("/")); got != "hello" || err != nil {
					t.Fatalf("answer %q, %v", got, err)
				}
			}
			if n := f.dials.Load(); n != 1 {
				t.Errorf("%d connections for 50 requests one after the other, want 1", n)
			}
			p := f.pick(ask)
			if n := p.entry.peer.open.Load(); n != 1 {
				t.Errorf("%d requests are open, want this one only", n)
			}
		})
	}
}

func TestHTTP2SharesAConnectionAndOpensAnotherWhenItIsFull(t *testing.T) {
	f := newField(t)
	release, arrived := make(chan struct{}), make(chan struct{}, 100)
	s := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release }))
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 10}
	f.pod("a", "10.0.0.1", nil)
	f.at("10.0.0.1", s.Listener.Addr().String())
	f.publish()
	ask := f.ask()
	ask.HTTP2 = true
	if _, err := f.u.Pick(ask); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 25 {
		wg.Go(func() {
			if _, err := f.do(ask, get("/")); err != nil {
				t.Error(err)
			}
		})
	}
	for range 25 {
		<-arrived
	}
	if n := f.dials.Load(); n != 3 {
		t.Errorf("%d connections for 25 requests at once, 10 a connection; want 3", n)
	}
	close(release)
	wg.Wait()
}

// echo upgrades a connection and sends back what comes.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		return
	}
	w.Header().Set("Connection", "upgrade")
	w.Header().Set("Upgrade", "echo")
	w.WriteHeader(http.StatusSwitchingProtocols)
	nc, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = nc.Close() }()
	_, _ = io.Copy(nc, rw)
}

func TestUpgradedConnectionCountsUntilItEnds(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", http.HandlerFunc(echo))
	f.publish()
	ask := f.ask()
	ask.Traffic.Connections = &route.ConnectionLimits{MaxConnectionsPerEndpoint: 1, MaxPending: 1}
	req := get("/")
	req.Header.Set("Connection", "upgrade")
	req.Header.Set("Upgrade", "echo")
	res, err := f.pick(ask).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan error, 1)
	go func() { _, err := f.do(ask, get("/")); next <- err }()
	eventually(t, "the next request waits", func() bool { return f.metric("warren_waypoint_pending_requests", "") == 1 })
	if _, err := f.do(ask, get("/")); !errors.Is(err, ErrOverloaded) {
		t.Errorf("error %v of one more, want ErrOverloaded", err)
	}
	_ = res.Body.Close()
	if err := <-next; err != nil {
		t.Errorf("the request that waited: %v", err)
	}
}

func TestUpgradedConnectionIsAStreamBothWays(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", http.HandlerFunc(echo))
	f.publish()
	req := get("/")
	req.Header.Set("Connection", "upgrade")
	req.Header.Set("Upgrade", "echo")
	p := f.pick(f.ask())
	res, err := p.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	stream, ok := res.Body.(io.ReadWriteCloser)
	if !ok || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %d, body %T", res.StatusCode, res.Body)
	}
	for i := range 3 {
		line := fmt.Sprintf("line %d\n", i)
		if _, err = io.WriteString(stream, line); err != nil {
			t.Fatal(err)
		}
		if got, err := bufio.NewReader(stream).ReadString('\n'); got != line {
			t.Fatalf("echo %q, %v", got, err)
		}
	}
	if n := p.entry.peer.open.Load(); n != 1 {
		t.Errorf("%d requests are open while the stream is, want 1", n)
	}
	if err := stream.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(stream); len(b) > 0 || err != nil {
		t.Errorf("after the end: %q, %v", b, err)
	}
	_ = stream.Close()
	if n := p.entry.peer.open.Load(); n != 0 {
		t.Errorf("%d requests are open after the stream's end", n)
	}
	eventually(t, "the connection is counted as closed", func() bool {
		return f.metric("warren_waypoint_endpoint_connections", "http1") == 0
	})
}

func TestEndpointThatCannotBeReachedWasNotSentTheRequest(t *testing.T) {
	for _, tt := range protocols {
		f := newField(t)
		f.pod("a", "10.0.0.1", nil)
		f.publish()
		ask := f.ask()
		ask.HTTP2 = tt.http2
		p := f.pick(ask)
		_, err := p.RoundTrip(get("/"))
		if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "nobody is at 10.0.0.1:8080") {
			t.Errorf("%s: error %v", tt.name, err)
		}
		if p.entry.peer.open.Load() != 0 || p.group.service.open.Load() != 0 {
			t.Errorf("%s: the pick is still open", tt.name)
		}
	}
}

// rude is a server that does as it is told with raw connections.
func rude(t *testing.T, f *field, addr string, serve func(n int, c net.Conn, r *bufio.Reader)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	f.at(addr, l.Addr().String())
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(n, c, bufio.NewReader(c))
			}()
		}
	}()
}

func TestRequestThatMayHaveBeenSeenIsNotCalledUnsent(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	rude(t, f, "10.0.0.1", func(_ int, _ net.Conn, r *bufio.Reader) { _, _ = http.ReadRequest(r) })
	f.publish()
	_, err := f.do(f.ask(), get("/"))
	if err == nil || errors.Is(err, ErrNotSent) {
		t.Errorf("error %v", err)
	}
}

// stale serves one request a connection, and closes it when the next one comes.
func stale(t *testing.T, f *field) (bodies chan string) {
	bodies = make(chan string, 10)
	f.pod("a", "10.0.0.1", nil)
	rude(t, f, "10.0.0.1", func(_ int, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		b, _ := io.ReadAll(req.Body)
		bodies <- string(b)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = r.Peek(1)
	})
	f.publish()
	return bodies
}

func TestRequestThatMetAnOldConnectionIsSentOnAnother(t *testing.T) {
	f := newField(t)
	stale(t, f)
	for i := range 5 {
		if got, err := f.do(f.ask(), get("/")); got != "ok" || err != nil {
			t.Fatalf("request %d: %q, %v", i, got, err)
		}
	}
	if n := f.dials.Load(); n != 5 {
		t.Errorf("%d connections, want 5", n)
	}
}

func TestRequestThatMustNotComeTwiceIsNotSentTwice(t *testing.T) {
	f := newField(t)
	bodies := stale(t, f)
	post := func() error {
		r := get("/")
		r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader("order")), 5
		_, err := f.do(f.ask(), r)
		return err
	}
	if err := post(); err != nil {
		t.Fatal(err)
	}
	if err := post(); err == nil || errors.Is(err, ErrNotSent) {
		t.Errorf("error %v for an order that may have been taken", err)
	}
	if n := len(bodies); n != 1 {
		t.Errorf("%d orders were taken, want 1", n)
	}
}

func TestHTTP2RequestThatTheServerDidNotTakeIsSentAgain(t *testing.T) {
	f := newField(t)
	var s *http.Server
	release, first := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ts := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			once.Do(func() { close(first) })
			<-release
		}
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s", r.URL.Path, b)
	}))
	s = ts.Config
	f.pod("a", "10.0.0.1", nil)
	f.at("10.0.0.1", ts.Listener.Addr().String())
	f.publish()
	ask := f.ask()
	ask.HTTP2 = true
	slow := make(chan error, 1)
	go func() {
		got, err := f.do(ask, get("/slow"))
		if err == nil && got != "/slow " {
			err = fmt.Errorf("answer %q", got)
		}
		slow <- err
	}()
	<-first
	// The server goes away gracefully: it finishes what it has, and takes nothing more on this connection.
	next := serve(t, says("next"))
	f.at("10.0.0.1", next.Listener.Addr().String())
	go func() { _ = s.Shutdown(context.Background()) }()
	for i := range 200 {
		r := get("/")
		r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader("x")), 1
		got, err := f.do(ask, r)
		if err != nil {
			t.Fatalf("request %d during the restart: %v", i, err)
		}
		if got == "next" && i > 20 {
			break
		}
	}
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("request that had begun before: %v", err)
	}
}

func TestConnectionsToAnEndpointAreLimitedAndRequestsWaitInALineThatIsTooLong(t *testing.T) {
	f := newField(t)
	release, arrived := make(chan struct{}), make(chan struct{}, 10)
	f.pod("a", "10.0.0.1", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release }))
	f.publish()
	ask := f.ask()
	ask.Traffic.Connections = &route.ConnectionLimits{MaxConnectionsPerEndpoint: 2, MaxPending: 3}
	results := make(chan error, 10)
	send := func(ctx context.Context) {
		_, err := f.do(ask, get("/").WithContext(ctx))
		results <- err
	}
	for range 2 {
		go send(context.Background())
		<-arrived
	}
	ctx, cancel := context.WithCancel(context.Background())
	go send(ctx)
	for range 2 {
		go send(context.Background())
	}
	eventually(t, "three wait", func() bool { return f.metric("warren_waypoint_pending_requests", "") == 3 })
	if _, err := f.do(ask, get("/")); !errors.Is(err, ErrOverloaded) || !errors.Is(err, ErrNotSent) {
		t.Fatalf("error %v of the sixth request, want ErrOverloaded and ErrNotSent", err)
	}
	cancel() // one gives up, and another takes its place
	if err := <-results; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNotSent) {
		t.Fatalf("error %v of the one that gave up", err)
	}
	go send(context.Background())
	close(release)
	for range 5 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := f.dials.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

func TestExpectContinueIsAnsweredOrWaitedForNotForLong(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	rude(t, f, "10.0.0.1", func(_ int, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r) // and no 100
		if err != nil {
			return
		}
		b, _ := io.ReadAll(req.Body)
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
	})
	f.publish()
	req := get("/")
	req.Method, req.Body, req.ContentLength = http.MethodPut, io.NopCloser(strings.NewReader("body")), 4
	req.Header.Set("Expect", "100-continue")
	started := time.Now()
	got, err := f.do(f.ask(), req)
	if took := time.Since(started); got != "body" || err != nil || took < continueTimeout || took > 3*continueTimeout {
		t.Errorf("answer %q, %v after %v", got, err, took)
	}
}

// TestSlowReaderHasLittleBuffered asks for an answer without end and does not read it: what the endpoint can write is
// what is buffered for it.
func TestSlowReaderHasLittleBuffered(t *testing.T) {
	f := newField(t)
	var written atomic.Int64
	f.pod("a", "10.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 4096); ; {
			n, err := w.Write(chunk)
			if written.Add(int64(n)); err != nil {
				return
			}
		}
	}))
	f.publish()
	ask := f.ask()
	ask.HTTP2 = true
	res, err := f.pick(ask).RoundTrip(get("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	last := int64(-1)
	eventually(t, "the endpoint cannot write more", func() bool {
		was := last
		last = written.Load()
		time.Sleep(50 * time.Millisecond)
		return last > 0 && last == was
	})
	if last > streamWindow+64<<10 {
		t.Errorf("%d bytes are buffered for one who does not read, want about %d", last, streamWindow)
	}
}

func TestAnswerWithTooLargeAHeaderIsRefused(t *testing.T) {
	for _, tt := range protocols {
		f := newField(t)
		f.pod("a", "10.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Large", strings.Repeat("x", 2*maxAnswerHeader))
		}))
		f.publish()
		ask := f.ask()
		ask.HTTP2 = tt.http2
		if _, err := f.do(ask, get("/")); err == nil || errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnsendable) {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
}
