package peer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// wires returns both ends of a TLS connection.
func wires(t *testing.T) (client, server *Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"peer"}, IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	client, cerr := Client(dialled.(*net.TCPConn), &tls.Config{RootCAs: roots, ServerName: "peer", MinVersion: tls.VersionTLS13})
	server, serr := Server(accepted.(*net.TCPConn), &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
	})
	if err := errors.Join(cerr, serr); err != nil {
		t.Fatal(err)
	}
	var task sync.WaitGroup
	task.Go(func() { serr = server.Handshake() })
	cerr = client.Handshake()
	task.Wait()
	if err := errors.Join(cerr, serr); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestWritesOfEverySizeArriveInOrderBothWays(t *testing.T) {
	client, server := wires(t)
	var sent [2]bytes.Buffer
	var task sync.WaitGroup
	for i, c := range []*Conn{client, server} {
		task.Go(func() {
			for n := 1; n < 300_000; n = n*3 + 1 {
				b := make([]byte, n)
				_, _ = rand.Read(b)
				sent[i].Write(b)
				if m, err := c.Write(b); m != n || err != nil {
					t.Errorf("write of %d: %d, %v", n, m, err)
				}
			}
			_ = c.CloseWrite()
		})
	}
	var got [2][]byte
	for i, c := range []*Conn{server, client} {
		task.Go(func() {
			var err error
			if got[i], err = io.ReadAll(c); err != nil {
				t.Error(err)
			}
		})
	}
	task.Wait()
	for i := range got {
		if !bytes.Equal(got[i], sent[i].Bytes()) {
			t.Errorf("direction %d: %d bytes arrived of %d, or others", i, len(got[i]), sent[i].Len())
		}
	}
}

func TestAReadThatWaitsHoldsNoBufferAndObeysItsDeadline(t *testing.T) {
	client, server := wires(t)
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	if server.wire.in != nil || client.wire.out != nil {
		t.Error("a buffer is held")
	}
}

func TestAResetIsReadAsOne(t *testing.T) {
	client, server := wires(t)
	_ = client.wire.SetLinger(0)
	_ = client.wire.Close()
	_, err := server.Read(make([]byte, 1))
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("read says %v", err)
	}
}
