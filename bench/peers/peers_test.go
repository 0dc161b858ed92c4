package peers

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
)

// TestKeysMakeMutualTLS: both sides of a pair accept one another, and nobody without a certificate.
func TestKeysMakeMutualTLS(t *testing.T) {
	k, err := MakeKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(k.Both, k.Both)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(k.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for _, c := range []struct {
		certs []tls.Certificate
		ok    bool
	}{{[]tls.Certificate{cert}, true}, {nil, false}} {
		a, b := net.Pipe()
		server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
		client := tls.Client(b, &tls.Config{Certificates: c.certs, RootCAs: pool, ServerName: serverName})
		done := make(chan error, 1)
		go func() {
			err := server.Handshake()
			a.Close()
			done <- err
		}()
		_ = client.Handshake()
		_, _ = client.Read(make([]byte, 1)) // what the server thinks of it comes late
		if err := <-done; (err == nil) != c.ok {
			t.Errorf("with %d certificates: %v", len(c.certs), err)
		}
		b.Close()
	}
}

// TestConfigurationsAreTaken asks nginx and HAProxy themselves.
func TestConfigurationsAreTaken(t *testing.T) {
	k, err := MakeKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	self, server := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	nginx, err := NGINX(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	haproxy, err := HAProxy(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pair  Pair
		check string
	}{{nginx, "-t"}, {haproxy, "-c"}} {
		first, err := c.pair.Server(t.TempDir(), server)
		if err != nil {
			t.Fatal(err)
		}
		second, err := c.pair.Client(t.TempDir(), self, server)
		if err != nil {
			t.Fatal(err)
		}
		for _, cmd := range []Command{first, second} {
			if out, err := exec.CommandContext(t.Context(), cmd.Argv[0], append(cmd.Argv[1:], c.check)...).CombinedOutput(); err != nil {
				t.Errorf("%q: %v\n%s", cmd.Argv, err, out)
			}
		}
		if c.pair.Version == c.pair.Name || c.pair.Tunnel == 0 {
			t.Errorf("%+v", c.pair)
		}
	}
}

func TestZtunnelVersionIsShort(t *testing.T) {
	for text, want := range map[string]string{
		`version.BuildInfo{Version:"1.2.3", GitRevision:"abc"}`:                       "1.2.3",
		`version.BuildInfo{Version:"62d826530e5ce85764e309170205b293efcbc80b-dirty"}`: "62d826530e5c",
		`version.BuildInfo{Version:"unknown", GitRevision:"abc"}`:                     "abc",
		"something else": "of unknown version",
	} {
		if got := ztunnelVersion(text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}
