package waypoint

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

const (
	// headerTimeout bounds how long a request's header may take from its first byte on.
	headerTimeout = 30 * time.Second
	// maxHeader bounds a request's header, bytes.
	maxHeader = 64 << 10
	// idleTimeout is longer than apps keep their idle connections: they are to close them.
	idleTimeout = time.Hour
)

// httpServer serves clients' connections with net/http.
type httpServer struct {
	server   *http.Server
	arrivals chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newHTTPServer(handler http.Handler, draining <-chan struct{}, log *slog.Logger) *httpServer {
	h := &httpServer{arrivals: make(chan net.Conn), closed: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	h.server = &http.Server{
		Handler: goodbye(handler, draining), Protocols: &protocols, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		DisableGeneralOptionsHandler: true,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: 1000, MaxReceiveBufferPerStream: 1 << 20, MaxReceiveBufferPerConnection: 4 << 20},
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return exchange.WithConn(ctx, c.(*clientConn).info)
		},
	}
	return h
}

// goodbye asks clients that keep their connections to come back by another, once the waypoint is told to stop: of the
// header, net/http makes a GOAWAY for HTTP/2's clients.
func goodbye(next http.Handler, draining <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-draining:
			w.Header().Set("Connection", "close")
		default:
		}
		next.ServeHTTP(w, r)
	})
}

// serve hands a connection to net/http, which closes it when it has ended.
func (h *httpServer) serve(c *clientConn) {
	select {
	case h.arrivals <- c:
	case <-h.closed:
		_ = c.Close()
	}
}

// run serves until ctx ends.
func (h *httpServer) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = h.server.Close() })
	defer stop()
	if err := h.server.Serve(h); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-ctx.Done() // what drains goes on
	return ctx.Err()
}

// drain takes no new connection, and returns once requests have ended or ctx has.
func (h *httpServer) drain(ctx context.Context) { _ = h.server.Shutdown(ctx) }

// Accept, Close and Addr make the server its own listener.
func (h *httpServer) Accept() (net.Conn, error) {
	select {
	case c := <-h.arrivals:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *httpServer) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *httpServer) Addr() net.Addr { return &net.TCPAddr{} }

// serveHTTP serves a small handler of the waypoint's own until ctx ends.
func serveHTTP(ctx context.Context, address string, handler http.Handler) error {
	server := &http.Server{
		Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}
