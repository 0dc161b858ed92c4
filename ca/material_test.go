package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestGivenIntermediateSignsUnderItsRoot(t *testing.T) {
	root := newCA(t, nil, newKey(t), nil)
	middle := newCA(t, root, newKey(t), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(30 * time.Minute) })
	next := newCA(t, nil, newKey(t), nil)

	config := files(t, middle.key, middle.cert, root.cert)
	config.ExtraRootsFile = filepath.Join(t.TempDir(), "roots.pem")
	writeFile(t, config.ExtraRootsFile, pemOf(next.cert, root.cert))
	a, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	if roots := a.Roots(); len(roots) != 2 || !roots[0].Equal(root.cert) || !roots[1].Equal(next.cert) {
		t.Errorf("%d roots", len(roots))
	}
	key := newKey(t)
	chain, err := a.IssueWorkload(web(t), key.Public(), 0)
	if err != nil || len(chain) != 2 || !bytes.Equal(chain[1], middle.cert.Raw) {
		t.Fatalf("a chain of %d, %v", len(chain), err)
	}
	if _, end := describe(chain[0]); !end.Equal(middle.cert.NotAfter) || !a.NotAfter().Equal(end) {
		t.Errorf("ends at %s, the intermediate at %s", end, middle.cert.NotAfter)
	}
	if !strings.HasPrefix(a.Origin(), "intermediate ") {
		t.Errorf("Origin = %q", a.Origin())
	}

	apart := files(t, middle.key, middle.cert) // the root is in the other file only
	apart.ExtraRootsFile = config.ExtraRootsFile
	if _, err := Open(apart); err != nil {
		t.Error(err)
	}
}

func TestUnusableCAsAreRefusedClearly(t *testing.T) {
	root := newCA(t, nil, newKey(t), nil)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*x509.Certificate)) Config {
		ca := newCA(t, nil, newKey(t), change)
		return files(t, ca.key, ca.cert)
	}
	broken := func(change func(c *Config)) Config {
		c := files(t, root.key, root.cert)
		change(&c)
		return c
	}
	deep := []*given{root}
	for range 4 {
		deep = append(deep, newCA(t, deep[len(deep)-1], newKey(t), nil))
	}
	short := newCA(t, newCA(t, root, newKey(t), func(c *x509.Certificate) { c.MaxPathLenZero = true }), newKey(t), nil)
	for name, tt := range map[string]struct {
		config Config
		text   string
	}{
		"nothing given":       {Config{TrustDomain: "mesh", Log: quiet()}, "state directory"},
		"no trust domain":     {Config{StateDir: t.TempDir(), Log: quiet()}, `trust domain ""`},
		"certificate alone":   {broken(func(c *Config) { c.KeyFile = "" }), "belong together"},
		"key alone":           {broken(func(c *Config) { c.CertFile = "" }), "belong together"},
		"no such certificate": {broken(func(c *Config) { c.CertFile += ".no" }), "tls.crt.no"},
		"no such key":         {broken(func(c *Config) { c.KeyFile += ".no" }), "tls.key.no"},
		"no PEM":              {broken(func(c *Config) { writeFile(t, c.CertFile, []byte("x")) }), "no PEM certificate"},
		"no PEM key":          {broken(func(c *Config) { writeFile(t, c.KeyFile, []byte("x")) }), "no PEM private key"},
		"key for certificate": {broken(func(c *Config) { c.CertFile = c.KeyFile }), `"PRIVATE KEY" where certificates`},
		"certificate for key": {broken(func(c *Config) { c.KeyFile = c.CertFile }), `"CERTIFICATE" where a private key`},
		"garbage inside": {broken(func(c *Config) {
			writeFile(t, c.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}))
		}), "certificate 0"},
		"another key":    {files(t, newKey(t), root.cert), "is not the key of"},
		"a leaf":         {with(func(c *x509.Certificate) { c.IsCA = false }), "is not a CA"},
		"may not sign":   {with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "keyCertSign"},
		"expired":        {with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "not valid now"},
		"not yet valid":  {with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "not valid now"},
		"RSA 1024":       {files(t, weak, newCA(t, nil, weak, nil).cert), "1024 bits"},
		"no root":        {files(t, deep[1].key, deep[1].cert), "no root"},
		"foreign root":   {files(t, deep[1].key, deep[1].cert, newCA(t, nil, newKey(t), nil).cert), "does not lead to a root"},
		"too deep":       {files(t, deep[4].key, deep[4].cert, deep[3].cert, deep[2].cert, deep[1].cert, root.cert), "4 intermediates"},
		"path length":    {files(t, short.key, short.cert, root.cert), "does not lead to a root"},
		"foreign domain": {with(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.org"} }), "cannot sign for trust domain mesh"},
		"for servers only": {func() Config {
			ca := newCA(t, root, newKey(t), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
			return files(t, ca.key, ca.cert, root.cert)
		}(), "cannot sign for trust domain mesh"},
		"extra roots missing": {broken(func(c *Config) { c.ExtraRootsFile = "/nonexistent/roots.pem" }), "/nonexistent/roots.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := Open(tt.config)
			if a != nil || err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Open = %v, %v, want %q", a, err, tt.text)
			}
		})
	}
}

func TestKeysOfEveryFormatAreRead(t *testing.T) {
	ec := newKey(t)
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		key   crypto.Signer
		block pem.Block
	}{
		"SEC 1":   {ec, pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER}},
		"PKCS #1": {rsaKey, pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}},
	} {
		config := files(t, tt.key, newCA(t, nil, tt.key, nil).cert)
		writeFile(t, config.KeyFile, pem.EncodeToMemory(&tt.block))
		if _, err := Open(config); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExpiryIsWarnedOf(t *testing.T) {
	for level, end := range map[string]time.Duration{"INFO": 100 * 24 * time.Hour, "WARN": time.Hour} {
		var log bytes.Buffer
		ca := newCA(t, nil, newKey(t), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(end) })
		config := files(t, ca.key, ca.cert)
		config.Log = slog.New(slog.NewTextHandler(&log, nil))
		if _, err := Open(config); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "level="+level+" msg=\"CA is ready\"") {
			t.Errorf("%s left: %s", end, &log)
		}
	}
}
