package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

// counter counts requests, and remembers their targets.
type counter struct {
	mu   sync.Mutex
	uris []string
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	c.mu.Lock()
	c.uris = append(c.uris, r.Method+" "+r.RequestURI)
	c.mu.Unlock()
	_, _ = io.WriteString(w, "ok")
}

func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.uris
	c.uris = nil
	return out
}

// smuggling is what clients send to have two readers see different requests: what a backend may see of it.
var smuggling = []struct {
	name, bytes string
	passes      []string
	refused     bool
}{
	{"a plain request", "GET /a HTTP/1.1\r\nHost: web.shop\r\n\r\n", []string{"GET /a"}, false},
	{"two, pipelined", "GET /a HTTP/1.1\r\nHost: w\r\n\r\nGET /b HTTP/1.1\r\nHost: w\r\n\r\n", []string{"GET /a", "GET /b"}, false},
	{"a body and another", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: w\r\n\r\n", []string{"POST /a", "GET /b"}, false},
	{"chunks and another", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: w\r\n\r\n", []string{"POST /a", "GET /b"}, false},
	{"chunks with extensions and trailers", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: CHUNKED\r\n\r\n3;x=\"y\"\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", []string{"POST /a"}, false},
	{"CL.TE", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", nil, true},
	{"TE.CL", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGET /b HTTP/1.1\r\n", nil, true},
	{"two lengths", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", nil, true},
	{"two different lengths", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: 3\r\nContent-Length: 0\r\n\r\nabc", nil, true},
	{"a list of lengths", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: 3, 3\r\n\r\nabc", nil, true},
	{"a signed length", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: +3\r\n\r\nabc", nil, true},
	{"a length in hex", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: 0x3\r\n\r\nabc", nil, true},
	{"a huge length", "POST /a HTTP/1.1\r\nHost: w\r\nContent-Length: 18446744073709551617\r\n\r\nabc", nil, true},
	{"two codings", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", nil, true},
	{"a list of codings", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", nil, true},
	{"an obscured coding", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", nil, true},
	{"a coding with a vertical tab", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", nil, true},
	{"a coding in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", nil, true},
	{"a space before the colon", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", nil, true},
	{"a folded header", "GET /a HTTP/1.1\r\nHost: w\r\nX: a\r\n b\r\n\r\n", nil, true},
	{"a folded coding", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", nil, true},
	{"a lone LF after the request line", "GET /a HTTP/1.1\nHost: w\r\n\r\n", nil, true},
	{"a lone LF after a header", "GET /a HTTP/1.1\r\nHost: w\nX: 1\r\n\r\n", nil, true},
	{"a lone LF at the end", "GET /a HTTP/1.1\r\nHost: w\r\n\n", nil, true},
	{"a lone CR in a header", "GET /a HTTP/1.1\r\nHost: w\r\nX: a\rY: b\r\n\r\n", nil, true},
	{"NUL in a header", "GET /a HTTP/1.1\r\nHost: w\r\nX: a\x00b\r\n\r\n", nil, true},
	{"no host", "GET /a HTTP/1.1\r\n\r\n", nil, true},
	{"two hosts", "GET /a HTTP/1.1\r\nHost: w\r\nHost: v\r\n\r\n", nil, true},
	{"two equal hosts", "GET /a HTTP/1.1\r\nHost: w\r\nHost: w\r\n\r\n", nil, true},
	{"an empty host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n", nil, true},
	{"a user in the host", "GET /a HTTP/1.1\r\nHost: me@w\r\n\r\n", nil, true},
	{"a path in the host", "GET /a HTTP/1.1\r\nHost: w/b\r\n\r\n", nil, true},
	{"a bad port", "GET /a HTTP/1.1\r\nHost: w:99999\r\n\r\n", nil, true},
	{"another host in the target", "GET http://v/a HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"the same host in the target", "GET http://w/a HTTP/1.1\r\nHost: W\r\n\r\n", []string{"GET /a"}, false},
	{"a user in the target", "GET http://me@w/a HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"another scheme", "GET ftp://w/a HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"an empty line first", "\r\nGET /a HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"two spaces", "GET  /a HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"a tab for a space", "GET\t/a HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"another version", "GET /a HTTP/1.2\r\nHost: w\r\n\r\n", nil, true},
	{"HTTP/0.9", "GET /a\r\n\r\n", nil, true},
	{"a fragment", "GET /a#b HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"dots with a parameter", "GET /..;/a HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"an escaped slash", "GET /a%2fb HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"a backslash", "GET /a\\b HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"a bad escape", "GET /a%zz HTTP/1.1\r\nHost: w\r\n\r\n", nil, true},
	{"dots", "GET /x/%2e%2e//a HTTP/1.1\r\nHost: w\r\n\r\n", []string{"GET /a"}, false},
	{"a chunk's size with a sign", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", nil, true},
	{"a chunk's size in 0x", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", nil, true},
	{"a chunk that is longer than it says", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", nil, true},
	{"a lone LF after a chunk's size", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", nil, true},
	{"a lone LF in a chunk's extension", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n3;\nx\r\nabc\r\n0\r\n\r\n", nil, true},
	{"a huge chunk's size", "POST /a HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", nil, true},
	{"a good one before a bad one", "GET /a HTTP/1.1\r\nHost: w\r\n\r\nGET /b HTTP/1.1\nHost: w\r\n\r\n", []string{"GET /a"}, true},
	{"what follows a refused upgrade", "GET /a HTTP/1.1\r\nHost: w\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nGET /b HTTP/1.1\r\nHost: w\r\n\r\n", []string{"GET /a"}, false},
	{"HTTP/2's preface on a used connection", "GET /a HTTP/1.1\r\nHost: w\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []string{"GET /a"}, true},
}

func TestWhatHasTwoReadingsReachesNobody(t *testing.T) {
	backend := &counter{}
	r := newRig(t, backend).start()
	for _, row := range smuggling {
		t.Run(row.name, func(t *testing.T) {
			c, in := r.raw(row.bytes)
			time.AfterFunc(200*time.Millisecond, func() { _ = c.(*net.TCPConn).CloseWrite() })
			answers, _ := io.ReadAll(in)
			good, bad := strings.Count(string(answers), "HTTP/1.1 200")+strings.Count(string(answers), "HTTP/1.0 200"), strings.Count(string(answers), " 400 Bad Request\r\n")
			got := backend.take()
			if fmt.Sprint(got) != fmt.Sprint(row.passes) || good != len(row.passes) || (bad > 0) != row.refused {
				t.Errorf("the backend saw %q, want %q; the client got %q", got, row.passes, answers)
			}
			want := len(row.passes)
			if row.refused {
				want++
			}
			passed := 0
			for range want {
				rec := r.record()
				if rec.Outcome == exchange.Answered {
					passed++
				} else if rec.Outcome != exchange.Malformed || rec.Detail == "" {
					t.Errorf("record: %+v", rec)
				}
			}
			if passed != len(got) {
				t.Errorf("the waypoint counts %d requests, the backend %d", passed, len(got))
			}
			r.nothingRecorded()
		})
	}
}

// pieces gives a reader its bytes a few at a time.
type pieces struct {
	net.Conn
	from *bytes.Reader
	n    int
}

func (p *pieces) Read(b []byte) (int, error) { return p.from.Read(b[:min(len(b), p.n)]) }

// FuzzScreen: what is handed on does not depend on how it arrives, is a prefix of what came, and the whole of it if there
// is no violation.
func FuzzScreen(f *testing.F) {
	for _, row := range smuggling {
		f.Add([]byte(row.bytes), 3)
	}
	f.Fuzz(func(t *testing.T, input []byte, n int) {
		if len(input) > 4096 {
			return
		}
		read := func(n int) ([]byte, error) {
			s := &screen{Conn: &pieces{from: bytes.NewReader(input), n: n}, refused: func(*head, error) {}}
			b, err := io.ReadAll(s)
			if s.err != nil && s.state == inHead {
				b = bytes.TrimSuffix(b, []byte(poison))
			}
			return b, err
		}
		whole, err := read(1 << 20)
		small, err2 := read(1 + int(uint(n)%7))
		if !errors.Is(err2, err) {
			t.Fatalf("in pieces %v, at once %v", err2, err)
		}
		if !bytes.HasPrefix(input, whole) || err == nil && len(whole) != len(input) {
			t.Fatalf("%q was handed on as %q", input, whole)
		}
		if !bytes.HasPrefix(small, whole) && !bytes.HasPrefix(whole, small) || bytes.Count(small, []byte("\r\n\r\n")) != bytes.Count(whole, []byte("\r\n\r\n")) {
			t.Fatalf("in pieces %q, at once %q", small, whole)
		}
	})
}
