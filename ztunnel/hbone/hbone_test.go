package hbone

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for. Nothing waits that long when it works.
const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// tcpPair returns both ends of a loopback TCP connection.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// tlsPair returns both ends of a TLS 1.3 connection over loopback.
func tlsPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"b"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(parsed)
	rawC, rawS := tcpPair(t)
	s := tls.Server(rawS, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	c := tls.Client(rawC, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, RootCAs: roots, ServerName: "b", DynamicRecordSizingDisabled: true})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	if err := errors.Join(c.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return c, s
}

// transports are what streams are tested over.
func transports() map[string]func(testing.TB) (net.Conn, net.Conn) {
	return map[string]func(testing.TB) (net.Conn, net.Conn){"tcp": tcpPair, "tls": tlsPair}
}

// endpoint is a client connected to a server in the same process.
type endpoint struct {
	*ClientConn
	nc      net.Conn // the client's
	serving chan error
	drain   context.CancelFunc
}

type pairConfig struct {
	dial           func(testing.TB) (net.Conn, net.Conn)
	client, server Config
	handle         func(context.Context, *Inbound)
}

// newPair starts both sides, and ends them with the test.
func newPair(t testing.TB, cfg pairConfig) *endpoint {
	t.Helper()
	if cfg.dial == nil {
		cfg.dial = tcpPair
	}
	c, s := cfg.dial(t)
	ctx, drain := context.WithCancel(context.Background())
	e := &endpoint{nc: c, serving: make(chan error, 1), drain: drain}
	go func() { e.serving <- ServeConn(ctx, s, cfg.server, cfg.handle) }()
	cc, err := NewClientConn(c, cfg.client)
	if err != nil {
		t.Fatal(err)
	}
	e.ClientConn = cc
	t.Cleanup(func() {
		cc.Close()
		s.Close()
		drain()
		select {
		case <-e.serving:
		case <-time.After(patience):
			t.Error("ServeConn did not return")
		}
	})
	return e
}

// served returns what ServeConn returned.
func (e *endpoint) served(t *testing.T) error {
	t.Helper()
	select {
	case err := <-e.serving:
		e.serving <- err
		return err
	case <-time.After(patience):
		t.Fatal("ServeConn did not return")
		return nil
	}
}

func mustConnect(t testing.TB, cc *ClientConn) *Stream {
	t.Helper()
	s, err := cc.Connect(testContext(t), Request{Authority: "10.0.0.7:8080"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// echo accepts and sends back what comes, its end too.
func echo(_ context.Context, in *Inbound) {
	s, err := in.Accept(Answer{})
	if err != nil {
		return
	}
	if _, err := io.Copy(s, s); err == nil {
		s.CloseWrite()
	}
	<-s.Done()
}

// opener returns a pair, and what opens a stream and gives both its ends. Handlers run until the test ends.
func opener(t testing.TB, cfg pairConfig) (e *endpoint, open func() (client, server *Stream)) {
	t.Helper()
	accepted := make(chan *Stream, 256)
	over := make(chan struct{})
	cfg.handle = func(_ context.Context, in *Inbound) {
		if s, err := in.Accept(Answer{}); err == nil {
			accepted <- s
		}
		<-over
	}
	e = newPair(t, cfg)
	t.Cleanup(func() { close(over) })
	return e, func() (client, server *Stream) {
		t.Helper()
		client = mustConnect(t, e.ClientConn)
		select {
		case server = <-accepted:
		case <-time.After(patience):
			t.Fatal("server accepted no stream")
		}
		return client, server
	}
}

// peers returns a client's stream and the server's end of it.
func peers(t testing.TB, cfg pairConfig) (client, server *Stream, e *endpoint) {
	t.Helper()
	e, open := opener(t, cfg)
	client, server = open()
	return client, server, e
}

func mustWrite(t *testing.T, s *Stream, text string) {
	t.Helper()
	if _, err := s.Write([]byte(text)); err != nil {
		t.Fatalf("write %.20q: %v", text, err)
	}
}

func wantRead(t *testing.T, s *Stream, text string) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(text))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

func wantEOF(t *testing.T, s *Stream) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(patience))
	if n, err := s.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d, %v; want EOF", n, err)
	}
}

func wantReset(t *testing.T, s *Stream, code Code) {
	t.Helper()
	s.SetReadDeadline(time.Now().Add(patience))
	_, err := s.Read(make([]byte, 1))
	var reset *ResetError
	if !errors.As(err, &reset) || !reset.Remote || reset.Code != code {
		t.Fatalf("read: %v; want the peer's reset with %v", err, code)
	}
}

func wantDone(t *testing.T, s *Stream) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("stream did not end")
	}
}
