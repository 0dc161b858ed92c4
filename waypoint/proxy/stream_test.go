package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

func TestEventsComeAsTheyHappen(t *testing.T) {
	next := make(chan string)
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for {
			select {
			case event := <-next:
				fmt.Fprintf(w, "data: %s\n\n", event)
				w.(http.Flusher).Flush()
			case <-q.Context().Done():
				return
			}
		}
	})).start()
	for _, http2 := range []bool{false, true} {
		res, err := r.client(http2).Get("http://web.shop/events")
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(res.Body)
		for _, event := range []string{"one", "two"} {
			next <- event
			if !lines.Scan() || lines.Text() != "data: "+event {
				t.Fatalf("got %q, %v", lines.Text(), lines.Err())
			}
			lines.Scan()
		}
		res.Body.Close()
		if rec := r.record(); rec.Outcome != exchange.Gone {
			t.Errorf("the client left; the record says %s (%s)", rec.Outcome, rec.Detail)
		}
	}
}

func TestBothDirectionsStreamAtOnce(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.(http.Flusher).Flush()
		in := bufio.NewScanner(q.Body)
		for in.Scan() {
			fmt.Fprintln(w, strings.ToUpper(in.Text()))
			w.(http.Flusher).Flush()
		}
	})).start()
	for _, http2 := range []bool{false, true} {
		reader, writer := io.Pipe()
		req, _ := http.NewRequest("POST", "http://web.shop/", reader)
		res, err := r.client(http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(res.Body)
		for i := range 20 {
			fmt.Fprintf(writer, "line %d\n", i)
			if want := fmt.Sprintf("LINE %d", i); !lines.Scan() || lines.Text() != want {
				t.Fatalf("got %q, want %q (%v)", lines.Text(), want, lines.Err())
			}
		}
		writer.Close()
		if lines.Scan() {
			t.Errorf("more came: %q", lines.Text())
		}
		if rec := r.record(); rec.Outcome != exchange.Answered {
			t.Errorf("record: %s (%s)", rec.Outcome, rec.Detail)
		}
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		_, _ = io.Copy(w, q.Body)
		w.Header().Set("X-Announced", q.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
	})).start()
	for _, http2 := range []bool{false, true} {
		req, _ := http.NewRequest("POST", "http://web.shop/", io.MultiReader(strings.NewReader("body"), strings.NewReader("")))
		req.ContentLength = -1
		req.Trailer = http.Header{"X-Sum": {"42"}, "X-Forwarded-For": {"forged"}}
		res, body := r.do(r.client(http2), req)
		if body != "body" || res.Trailer.Get("X-Announced") != "42" || res.Trailer.Get("X-Late") != "late" {
			t.Errorf("HTTP/2 %t: %q, trailers %v", http2, body, res.Trailer)
		}
	}
}

func TestTheBackendDecidesWhetherABodyIsWanted(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Expect") != "100-continue" {
			http.Error(w, "Expect did not arrive", http.StatusBadRequest)
			return
		}
		if q.URL.Path == "/no" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(w, q.Body)
	})).start()
	for _, row := range []struct {
		path      string
		status    int
		body      string
		continued bool
	}{{"/yes", 200, "hello", true}, {"/no", 413, "", false}} {
		continued := false
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
		read := false
		req, _ := http.NewRequestWithContext(ctx, "POST", "http://web.shop"+row.path, &watched{strings.NewReader("hello"), &read})
		req.ContentLength = 5
		req.Header.Set("Expect", "100-continue")
		res, body := r.do(r.client(false), req)
		if res.StatusCode != row.status || body != row.body || continued != row.continued || read != row.continued {
			t.Errorf("%s: %d %q, continued %t, read %t", row.path, res.StatusCode, body, continued, read)
		}
	}
}

type watched struct {
	io.Reader
	read *bool
}

func (w *watched) Read(p []byte) (int, error) { *w.read = true; return w.Reader.Read(p) }

func TestEarlyHintsPass(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "done")
	})).start()
	for _, http2 := range []bool{false, true} {
		hint := ""
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error { hint = fmt.Sprint(code, h.Get("Link")); return nil },
		})
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://web.shop/", nil)
		res, body := r.do(r.client(http2), req)
		if hint != "103</a.css>; rel=preload" || body != "done" || res.Header.Get("Link") != "" {
			t.Errorf("HTTP/2 %t: hint %q, body %q, header %v", http2, hint, body, res.Header)
		}
	}
}

func TestBigBodiesAreStreamed(t *testing.T) {
	const size = 96 << 20
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { _, _ = io.Copy(w, q.Body) })).start()
	for _, http2 := range []bool{false, true} {
		runtime.GC()
		var before, now runtime.MemStats
		runtime.ReadMemStats(&before)
		req, _ := http.NewRequest("POST", "http://web.shop/", io.LimitReader(zeros{}, size))
		req.ContentLength = size
		res, err := r.client(http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		half, _ := io.CopyN(io.Discard, res.Body, size/2)
		runtime.GC()
		runtime.ReadMemStats(&now)
		rest, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if half+rest != size || err != nil {
			t.Errorf("HTTP/2 %t: %d bytes came back, %v", http2, half+rest, err)
		}
		if grown := int64(now.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
			t.Errorf("HTTP/2 %t: %d MiB more are held in mid-body", http2, grown>>20)
		}
		if rec := r.record(); rec.BytesIn != size || rec.BytesOut != size {
			t.Errorf("the record counts %d in, %d out", rec.BytesIn, rec.BytesOut)
		}
	}
	if left := r.proxy.kept.left.Load(); left != maxKept {
		t.Errorf("%d bytes of the budget for kept bodies were not given back", maxKept-left)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestATruncatedAnswerNeverLooksWhole(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/length" {
			w.Header().Set("Content-Length", "100")
		}
		_, _ = io.WriteString(w, "half of it")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})).start()
	for _, path := range []string{"/length", "/chunked"} {
		for _, http2 := range []bool{false, true} {
			res, err := r.client(http2).Get("http://web.shop" + path)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%s, HTTP/2 %t: %q looked whole", path, http2, body)
			}
			res.Body.Close()
			if rec := r.record(); rec.Outcome != exchange.BackendGone {
				t.Errorf("%s, HTTP/2 %t: the record says %s (%s)", path, http2, rec.Outcome, rec.Detail)
			}
		}
	}
	_, in := r.raw("GET /chunked HTTP/1.0\r\nHost: web.shop\r\n\r\n")
	if b, err := io.ReadAll(in); err == nil {
		t.Errorf("HTTP/1.0: %q looked whole", b)
	}
}

func TestHTTP10IsAnsweredInItsTerms(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, "host "+q.Host)
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, " end")
	})).start()
	_, in := r.raw("GET / HTTP/1.0\r\n\r\n")
	b, err := io.ReadAll(in)
	head, body, _ := strings.Cut(string(b), "\r\n\r\n")
	if err != nil || body != "host web.shop.svc.cluster.local end" || strings.Contains(head, "chunked") {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestHeadHasNoBody(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1234") })).start()
	for _, http2 := range []bool{false, true} {
		res, err := r.client(http2).Head("http://web.shop/")
		if err != nil || res.ContentLength != 1234 {
			t.Errorf("HTTP/2 %t: %v, %v", http2, res, err)
		}
	}
}

func TestAClientThatLeavesEndsTheBackendsWork(t *testing.T) {
	left := make(chan struct{}, 1)
	r := newRig(t, http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		<-q.Context().Done()
		left <- struct{}{}
	})).start()
	for _, http2 := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://web.shop/", nil)
		if _, err := r.client(http2).Do(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		select {
		case <-left:
		case <-time.After(5 * time.Second):
			t.Fatal("the backend still works")
		}
		if rec := r.record(); rec.Outcome != exchange.Gone || rec.Status != 0 {
			t.Errorf("record: %s %d (%s)", rec.Outcome, rec.Status, rec.Detail)
		}
	}
}

func TestAnAnswerBeforeTheBodysEndArrives(t *testing.T) {
	r := newRig(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // or it would read on before it answers
		_, _ = q.Body.Read(make([]byte, 4))                  // so that the waypoint waits for more
		w.WriteHeader(http.StatusUnauthorized)
	})).start()
	for _, framing := range []string{"Content-Length: 1000000\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n"} {
		c, in := r.raw("POST / HTTP/1.1\r\nHost: web.shop\r\n" + framing)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%v, %v", res, err)
		}
		began := time.Now()
		time.AfterFunc(lingerTime+200*time.Millisecond, func() { _, _ = io.WriteString(c, "3e8\r\nGET /smuggled HTTP/1.1\r\nHost: w\r\n\r\n") })
		more, err := io.ReadAll(in)
		if took := time.Since(began); took > 5*time.Second || strings.Contains(string(more), "HTTP/1.1") {
			t.Errorf("the connection stayed open for %s, %q, %v", took, more, err)
		}
		if rec := r.record(); rec.Status != http.StatusUnauthorized || rec.Outcome != exchange.Answered {
			t.Errorf("record: %s %d", rec.Outcome, rec.Status)
		}
	}
}
