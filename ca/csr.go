package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
)

// ErrBadRequest is wrapped by every error of ParseRequest.
var ErrBadRequest = errors.New("certificate request is refused")

const maxRequestBytes = 4 << 10

// ParseRequest takes the public key out of a PKCS #10 request in DER. Its subject and extensions are not looked at.
// Returns an error that wraps ErrBadRequest if it is longer than 4 KiB, not signed by its own key, or the key is not
// ECDSA P-256.
func ParseRequest(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxRequestBytes {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrBadRequest, len(der), maxRequestBytes)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: not PKCS #10 in DER", ErrBadRequest)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: the key is not ECDSA P-256", ErrBadRequest)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: it is not signed by its own key", ErrBadRequest)
	}
	return key, nil
}
