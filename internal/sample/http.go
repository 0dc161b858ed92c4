package sample

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

const (
	maxBytes     = 1 << 30 // of one /bytes answer
	maxBody      = 1 << 20 // of a request that is echoed
	maxStream    = 10_000  // events of one /stream answer
	headerWait   = 10 * time.Second
	streamPeriod = 100 * time.Millisecond
)

// Echo is the answer of the HTTP server.
type Echo struct {
	Service string `json:"service"` // the name it was given
	Host    string `json:"host"`    // name of the machine
	// RemoteAddr is the peer as accept(2) returned it, PeerName as getpeername(2) does.
	RemoteAddr string      `json:"remoteAddr"`
	PeerName   string      `json:"peerName"`
	LocalAddr  string      `json:"localAddr"`
	Method     string      `json:"method"`
	URL        string      `json:"url"`
	Proto      string      `json:"proto"`
	HostHeader string      `json:"hostHeader"`
	Headers    http.Header `json:"headers"`
	Body       string      `json:"body,omitempty"`
}

type connKey struct{}

func httpCommand(out io.Writer) *cobra.Command {
	var ports []uint
	var name, next string
	cmd := &cobra.Command{
		Use:   "http",
		Short: "Serve HTTP: / echoes the request as JSON; /next, /healthz, /stream?n=, /bytes?n=, /status?code=",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server := NewHTTPServer(name)
			if next != "" {
				server.Handler = askNext(server.Handler, next)
			}
			return serveHTTP(cmd.Context(), out, server, ports)
		},
	}
	cmd.Flags().UintSliceVar(&ports, "port", []uint{8080}, "port to listen on; may be repeated")
	cmd.Flags().StringVar(&name, "name", "", "name to answer with (default the host's)")
	cmd.Flags().StringVar(&next, "next", "", "URL that /next asks, with the trace headers of its own request, and answers with")
	return cmd
}

func serveHTTP(ctx context.Context, out io.Writer, server *http.Server, ports []uint) error {
	wanted, err := portNumbers(ports)
	if err != nil {
		return err
	}
	listeners, err := listenAll(ctx, wanted)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		_, _ = fmt.Fprintf(out, "http on %s\n", l.Addr())
	}
	return serveAll(ctx, listeners, func(l net.Listener) error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, func(ctx context.Context) error {
		if server.Shutdown(ctx) != nil {
			return server.Close()
		}
		return nil
	})
}

// NewHTTPServer is the server of `sample http`. HTTP/1.1 and cleartext HTTP/2 with prior knowledge.
func NewHTTPServer(name string) *http.Server {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if name == "" {
		name = host
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { echo(w, r, name, host) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("/stream", stream)
	mux.HandleFunc("/bytes", sendBytes)
	mux.HandleFunc("/status", sendStatus)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: headerWait, Protocols: protocols,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
}

func echo(w http.ResponseWriter, r *http.Request, name, host string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	answer := Echo{
		Service: name, Host: host, Method: r.Method, URL: r.URL.String(), Proto: r.Proto,
		HostHeader: r.Host, Headers: r.Header, Body: string(body), RemoteAddr: r.RemoteAddr,
	}
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		answer.RemoteAddr, answer.PeerName, answer.LocalAddr = address(conn.RemoteAddr()), peerName(conn), address(conn.LocalAddr())
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(answer) // the client has gone
}

// stream sends n lines, one a tenth of a second, and flushes each.
func stream(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, "n", 10, maxStream)
	if !ok {
		return
	}
	ticker := time.NewTicker(streamPeriod)
	defer ticker.Stop()
	flush := http.NewResponseController(w)
	for i := range n {
		if _, err := fmt.Fprintf(w, "%d\n", i+1); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// sendBytes sends n bytes, of which byte i is i modulo 251, a prime: a lost or doubled block shows.
func sendBytes(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, "n", 1024, maxBytes)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	_, _ = io.Copy(w, io.LimitReader(&pattern{}, n)) // the client has gone
}

func sendStatus(w http.ResponseWriter, r *http.Request) {
	if code, ok := number(w, r, "code", http.StatusOK, 599); ok {
		w.WriteHeader(int(max(code, http.StatusOK)))
	}
}

// number reads a query parameter between 0 and most. It answers the request itself if that is not what it is.
func number(w http.ResponseWriter, r *http.Request, key string, def, most int64) (int64, bool) {
	text := r.URL.Query().Get(key)
	if text == "" {
		return def, true
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > most {
		http.Error(w, fmt.Sprintf("%s: want a number from 0 to %d", key, most), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

// pattern reads as the bytes 0 to 250, over and over.
type pattern struct{ next byte }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = p.next
		p.next = (p.next + 1) % 251
	}
	return len(b), nil
}

func portNumbers(ports []uint) ([]uint16, error) {
	var out []uint16
	for _, p := range ports {
		if p == 0 || p > 65535 {
			return nil, fmt.Errorf("--port %d: want 1 to 65535", p)
		}
		out = append(out, uint16(p))
	}
	return out, nil
}
