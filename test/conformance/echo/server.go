package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	pb "sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

const (
	maxDelay = time.Minute
	maxIDs   = 10_000
)

// ports is a flag that may be repeated.
type ports []int

func (p *ports) String() string { return fmt.Sprint(*p) }

func (p *ports) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	*p = append(*p, int(n))
	return err
}

// listeners are where the server answers.
type listeners struct{ http, tls, grpc, tcp ports }

func parseListeners(args []string) (l listeners, err error) {
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.Var(&l.http, "port", "answer HTTP/1.1 and h2c there")
	flags.Var(&l.tls, "tls", "which of these ports is TLS")
	flags.Var(&l.grpc, "grpc", "answer gRPC there")
	flags.Var(&l.tcp, "tcp", "answer the first line of a TCP connection there")
	flags.String("crt", "", "not looked at: the certificate is made at start")
	flags.String("key", "", "not looked at, too")
	err = flags.Parse(args)
	return l, err
}

func serve(ctx context.Context, args []string) error {
	l, err := parseListeners(args)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	start := func(port int, serve func(net.Listener) error) error {
		ln, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		go func() {
			select {
			case failed <- fmt.Errorf("port %d: %w", port, serve(ln)):
			default:
			}
		}()
		return nil
	}
	for _, p := range l.http {
		if slices.Contains(l.tls, p) {
			err = errors.Join(err, start(p, serveTLS(host)))
		} else {
			err = errors.Join(err, start(p, httpServer(host).Serve))
		}
	}
	for _, p := range l.grpc {
		err = errors.Join(err, start(p, grpcServer(host).Serve))
	}
	for _, p := range l.tcp {
		err = errors.Join(err, start(p, func(ln net.Listener) error { return serveTCP(ln, host) }))
	}
	if err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// seen counts requests by their header X-Id, so that a retry and a mirrored copy can be told.
type seen struct {
	mu sync.Mutex
	of map[string]int
}

func (s *seen) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.of) >= maxIDs {
		clear(s.of)
	}
	s.of[id]++
	return s.of[id]
}

func httpServer(host string) *http.Server {
	ids := &seen{of: make(map[string]int)}
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	both.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols: both, ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, host, ids) }),
	}
}

// answer writes what was asked, a line each, after the time that the query asks for: ?delay=1s. With ?fail=N the first N
// requests of an id are answered 503.
func answer(w http.ResponseWriter, r *http.Request, host string, ids *seen) {
	times := ids.count(r.Header.Get("X-Id"))
	if fail, err := strconv.Atoi(r.URL.Query().Get("fail")); err == nil && times <= fail {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if delay, err := time.ParseDuration(r.URL.Query().Get("delay")); err == nil {
		select {
		case <-time.After(min(delay, maxDelay)):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain")
	line := func(key, value string) { fmt.Fprintf(w, "%s=%s\n", key, value) }
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		line("ServicePort", strconv.Itoa(local.Port))
	}
	line("Seen", strconv.Itoa(times))
	line("Host", r.Host)
	line("URL", r.URL.RequestURI())
	line("Method", r.Method)
	line("Proto", r.Proto)
	line("IP", client)
	for name, values := range r.Header {
		for _, v := range values {
			line("RequestHeader", name+":"+v)
		}
	}
	line("Hostname", host)
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		fmt.Fprintln(os.Stderr, "body:", err)
	}
}

// serveTLS serves the same with a certificate that is made now.
func serveTLS(host string) func(net.Listener) error {
	return func(ln net.Listener) error {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotAfter: time.Now().AddDate(1, 0, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return err
		}
		server := httpServer(host)
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		return server.ServeTLS(ln, "", "")
	}
}

func serveTCP(ln net.Listener, host string) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			if _, err := conn.Read(make([]byte, 1024)); err == nil {
				fmt.Fprintf(conn, "StatusCode=200\nHostname=%s\n", host)
			}
		}()
	}
}

// grpcEcho answers the suite's gRPC service.
type grpcEcho struct {
	pb.UnimplementedGrpcEchoServer
	host string
}

func grpcServer(host string) *grpc.Server {
	s := grpc.NewServer()
	pb.RegisterGrpcEchoServer(s, &grpcEcho{host: host})
	return s
}

func (e *grpcEcho) answer(ctx context.Context) (*pb.EchoResponse, error) {
	method, _ := grpc.Method(ctx)
	asked, _ := metadata.FromIncomingContext(ctx)
	reply := &pb.Assertions{FullyQualifiedMethod: method, Context: &pb.Context{Pod: e.host}}
	for name, values := range asked {
		for _, v := range values {
			reply.Headers = append(reply.Headers, &pb.Header{Key: name, Value: v})
		}
	}
	reply.Authority = cmp.Or(append(asked.Get(":authority"), "")...)
	return &pb.EchoResponse{Assertions: reply}, nil
}

// Echo answers.
func (e *grpcEcho) Echo(ctx context.Context, _ *pb.EchoRequest) (*pb.EchoResponse, error) {
	return e.answer(ctx)
}

// EchoTwo answers as well.
func (e *grpcEcho) EchoTwo(ctx context.Context, _ *pb.EchoRequest) (*pb.EchoResponse, error) {
	return e.answer(ctx)
}

// EchoThree does, too.
func (e *grpcEcho) EchoThree(ctx context.Context, _ *pb.EchoRequest) (*pb.EchoResponse, error) {
	return e.answer(ctx)
}
