package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// NewRoot makes a root as an Authority makes its own, and returns certificate and key, PEM, for whoever keeps them.
func NewRoot(trustDomain string) (cert, key []byte, err error) {
	config := Config{TrustDomain: trustDomain}
	config.setDefaults()
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a root: %w", err)
	}
	der, err := config.selfSign(signing)
	if err != nil {
		return nil, nil, fmt.Errorf("make a root: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(signing)
	if err != nil {
		return nil, nil, fmt.Errorf("make a root: %w", err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
