package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// keyLife is longer than any run.
const keyLife = 7 * 24 * time.Hour

// serverName is whom the certificate is for.
const serverName = "bench.mesh"

// Keys are the files that both proxies of a pair prove themselves to one another by: one certificate of a CA that nobody
// keeps, ECDSA P-256.
type Keys struct {
	CA, Cert, Key string
	Both          string // certificate and key, as HAProxy wants them
}

// MakeKeys writes new ones into a folder.
func MakeKeys(dir string) (Keys, error) {
	k := Keys{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return k, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return k, err
	}
	ca := template(1, "bench CA")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	leaf := template(2, "bench peer")
	leaf.DNSNames = []string{serverName}
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return k, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return k, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return k, err
	}
	cert, private := encode("CERTIFICATE", leafDER), encode("PRIVATE KEY", keyDER)
	return k, errors.Join(
		write(k.CA, encode("CERTIFICATE", caDER)), write(k.Cert, cert), write(k.Key, private), write(k.Both, append(cert, private...)))
}

func template(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(keyLife),
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func write(file string, text []byte) error { return os.WriteFile(file, text, 0o600) }
