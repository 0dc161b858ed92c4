// Package rotation exchanges a mesh's root in three steps, none of which lets a connection fail: everybody trusts the new
// root before anything is signed with it, and everything is signed with it before the old one is forgotten.
//
//	Trust   the new root is among the roots; the old one signs
//	Sign    the new root signs; the old one is still trusted
//	Forget  the old root is gone
//
// It is pure: it turns the content of the CA's Secret into the next. Whoever drives it waits, after each step, until every
// node has followed. The content says which step it is at, so that an interrupted rotation goes on where it was.
package rotation

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
)

// Keys of the Secret. The first three are those of a Secret of type kubernetes.io/tls; the others are there during a
// rotation only.
const (
	Cert     = "tls.crt"
	Key      = "tls.key"
	Roots    = "ca.crt"
	nextCert = "next.crt"
	nextKey  = "next.key"
	oldRoot  = "previous.crt"
)

// Step is how far a rotation is.
type Step string

const (
	None  Step = "none"  // no rotation is under way
	Trust Step = "trust" // the new root is to be trusted everywhere
	Sign  Step = "sign"  // everything is to be signed by the new root
)

// State is a Secret's content, read.
type State struct {
	Step Step
	// Old and New are the roots, nil where there is none: New only during a rotation.
	Old, New *x509.Certificate
}

// Read says how far a Secret's content is. Returns an error that names the key that is not as it must be.
func Read(data map[string][]byte) (State, error) {
	signing, err := certs(data, Cert)
	if err != nil {
		return State{}, err
	}
	if len(data[nextCert]) == 0 {
		root, err := rootOf(signing, data)
		return State{Step: None, Old: root}, err
	}
	next, err := certs(data, nextCert)
	if err != nil {
		return State{}, err
	}
	previous, err := certs(data, oldRoot)
	if err != nil {
		return State{}, err
	}
	fresh, err := rootOf(next, nil)
	if err != nil {
		return State{}, err
	}
	s := State{Step: Trust, Old: previous[0], New: fresh}
	if signing[0].Equal(next[0]) {
		s.Step = Sign
	}
	return s, nil
}

// Begin adds a new CA, PEM, to be trusted: certificate first, then what is above it down to its root, and its key.
func Begin(data map[string][]byte, cert, key []byte) (map[string][]byte, error) {
	s, err := Read(data)
	if err != nil {
		return nil, err
	}
	if s.Step != None {
		return nil, fmt.Errorf("a rotation is under way: it is at step %q", s.Step)
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("the new CA: %w", err)
	}
	next, err := certs(map[string][]byte{nextCert: cert}, nextCert)
	if err != nil {
		return nil, err
	}
	fresh, err := rootOf(next, nil)
	if err != nil {
		return nil, fmt.Errorf("the new CA: %w", err)
	}
	if fresh.Equal(s.Old) {
		return nil, errors.New("the new CA has the same root as the present one")
	}
	out := maps.Clone(data)
	out[nextCert], out[nextKey], out[oldRoot] = cert, key, encode(s.Old)
	out[Roots] = join(data[Roots], encode(fresh))
	return out, nil
}

// Switch makes the new CA sign.
func Switch(data map[string][]byte) (map[string][]byte, error) {
	s, err := Read(data)
	if err != nil {
		return nil, err
	}
	if s.Step != Trust {
		return nil, fmt.Errorf("the rotation is at step %q, not %q", s.Step, Trust)
	}
	out := maps.Clone(data)
	out[Cert], out[Key] = data[nextCert], data[nextKey]
	out[Roots] = join(without(data[Roots], s.New), encode(s.Old))
	return out, nil
}

// Finish forgets the old root.
func Finish(data map[string][]byte) (map[string][]byte, error) {
	s, err := Read(data)
	if err != nil {
		return nil, err
	}
	if s.Step != Sign {
		return nil, fmt.Errorf("the rotation is at step %q, not %q", s.Step, Sign)
	}
	out := maps.Clone(data)
	out[Roots] = without(data[Roots], s.Old)
	delete(out, nextCert)
	delete(out, nextKey)
	delete(out, oldRoot)
	if len(out[Roots]) == 0 {
		delete(out, Roots)
	}
	return out, nil
}

// rootOf returns the root above a signing certificate: among what comes with it, or among the roots beside it.
func rootOf(chain []*x509.Certificate, data map[string][]byte) (*x509.Certificate, error) {
	for _, c := range chain {
		if selfSigned(c) {
			return c, nil
		}
	}
	if len(data[Roots]) > 0 {
		beside, err := certs(data, Roots)
		if err != nil {
			return nil, err
		}
		for _, c := range beside {
			if selfSigned(c) && chain[len(chain)-1].CheckSignatureFrom(c) == nil {
				return c, nil
			}
		}
	}
	return nil, errors.New("the root of the signing certificate is not among its certificates: put it behind them")
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func certs(data map[string][]byte, key string) (out []*x509.Certificate, err error) {
	for block, rest := pem.Decode(data[key]); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: there is no PEM certificate in it", key)
	}
	return out, nil
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func join(a, b []byte) []byte {
	if len(a) == 0 {
		return b
	}
	return append(append(bytes.TrimSpace(bytes.Clone(a)), '\n'), b...)
}

// without returns PEM certificates but one.
func without(roots []byte, gone *x509.Certificate) (out []byte) {
	for block, rest := pem.Decode(roots); block != nil; block, rest = pem.Decode(rest) {
		if !bytes.Equal(block.Bytes, gone.Raw) {
			out = append(out, pem.EncodeToMemory(block)...)
		}
	}
	return out
}
