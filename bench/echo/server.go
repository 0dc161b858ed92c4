// Package echo is what the benches' clients talk to: one listener whose connections say by their first byte what they
// want, so that a proxy in front of it needs one port for all. What starts like HTTP/1.1 or HTTP/2 gets those.
package echo

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
)

// What a connection's first byte asks for. HTTP/1.1 starts with G, HTTP/2 with P.
const (
	ModeEcho     = 'E' // and 4 bytes of size: messages of that size, each sent back once it is whole
	ModeUpload   = 'U' // takes everything, then says in 8 bytes how much that was
	ModeDownload = 'D' // sends until the client goes
	ModeHello    = 'H' // one byte, and the server hangs up
)

const (
	bufferSize = 64 << 10
	maxMessage = 1 << 20
	maxBody    = 16 << 20
)

// Serve accepts until ctx ends. It owns the listener. name is what HTTP and gRPC answers say they come from.
func Serve(ctx context.Context, l net.Listener, name string) error {
	web := newQueue(l.Addr())
	calls := newQueue(l.Addr())
	httpServer := &http.Server{Handler: page(name), ReadHeaderTimeout: time.Minute}
	grpcServer := grpc.NewServer()
	register(grpcServer, name)
	go func() { _ = httpServer.Serve(web) }() // ends with its queue
	go func() { _ = grpcServer.Serve(calls) }()
	defer context.AfterFunc(ctx, func() {
		_ = l.Close()
		_ = httpServer.Close()
		grpcServer.Stop()
	})()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go serve(conn, web, calls)
	}
}

func serve(conn net.Conn, web, calls *queue) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		_ = conn.Close()
		return
	}
	switch first[0] {
	case 'G':
		web.put(&begun{conn, first})
		return
	case 'P':
		calls.put(&begun{conn, first})
		return
	}
	defer func() { _ = conn.Close() }()
	switch first[0] {
	case ModeEcho:
		_ = echo(conn) // the client has gone: it reports what went wrong
	case ModeUpload:
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, bufferSize))
		_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	case ModeDownload:
		for buf := make([]byte, bufferSize); ; {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	case ModeHello:
		_, _ = conn.Write(first)
	}
}

func echo(conn net.Conn) error {
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > maxMessage {
		return errors.New("no such size")
	}
	buf := make([]byte, n)
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return err
		}
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
}

// page answers /bytes?n=N with N bytes and anything else with the server's name.
func page(name string) http.Handler {
	zeros := make([]byte, maxBody)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := []byte(name)
		if r.URL.Path == "/bytes" {
			n, err := strconv.Atoi(r.URL.Query().Get("n"))
			if err != nil || n < 0 || n > maxBody {
				http.Error(w, "n: want 0 to 16777216", http.StatusBadRequest)
				return
			}
			body = zeros[:n]
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
}
