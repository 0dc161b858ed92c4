package controller

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/identity"
)

// selfSigner holds the controller's own SVID, which its CA issues, and renews it at half of its life.
type selfSigner struct {
	authority *ca.Authority
	log       *slog.Logger
	svid      atomic.Pointer[identity.SVID]
}

func newSelfSigner(authority *ca.Authority, log *slog.Logger) (*selfSigner, error) {
	s := &selfSigner{authority: authority, log: log}
	return s, s.renew()
}

// current implements identity.GetSVID.
func (s *selfSigner) current() (*identity.SVID, error) { return s.svid.Load(), nil }

func (s *selfSigner) renew() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("controller's SVID: %w", err)
	}
	chain, err := s.authority.IssueController(key.Public(), 0)
	if err != nil {
		return fmt.Errorf("controller's SVID: %w", err)
	}
	svid, err := identity.NewSVID(chain, key)
	if err != nil {
		return fmt.Errorf("controller's SVID: %w", err)
	}
	s.svid.Store(svid)
	return nil
}

// run renews until ctx ends. A renewal that fails is tried every minute; the old SVID is presented meanwhile.
func (s *selfSigner) run(ctx context.Context) error {
	const retry = time.Minute
	wait := s.untilHalf()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if err := s.renew(); err != nil {
			s.log.Error("the controller's own certificate was not renewed", "err", err, "valid_until", s.svid.Load().NotAfter)
			wait = retry
			continue
		}
		wait = s.untilHalf()
	}
}

func (s *selfSigner) untilHalf() time.Duration {
	svid := s.svid.Load()
	half := svid.NotBefore.Add(svid.NotAfter.Sub(svid.NotBefore) / 2)
	return max(time.Until(half), time.Second)
}

// writeBundle writes the roots for agents to pin, whole or not at all. Everybody may read it.
func writeBundle(path string, roots []*x509.Certificate) error {
	var data []byte
	for _, root := range roots {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})...)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".bundle-*")
	if err != nil {
		return fmt.Errorf("write trust bundle: %w", err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write trust bundle %s: %w", path, errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
