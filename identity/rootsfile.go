package identity

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// maxRootsFile bounds a file of roots, bytes.
const maxRootsFile = 1 << 20

// RootsFile is a PEM file with the roots that somebody begins with, before the controller says more. Whoever looks after
// the file may replace it at any time.
type RootsFile struct {
	path, trustDomain string

	mu     sync.Mutex
	size   int64
	mtime  time.Time
	bundle *Bundle
}

// NewRootsFile returns the file at a path, of which nothing is read yet.
func NewRootsFile(path, trustDomain string) *RootsFile {
	return &RootsFile{path: path, trustDomain: trustDomain}
}

// Read returns what the file says now. It is parsed again only if it is another one than before.
func (f *RootsFile) Read() (*Bundle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, fmt.Errorf("read trust bundle: %w", err)
	}
	if f.bundle != nil && info.Size() == f.size && info.ModTime().Equal(f.mtime) {
		return f.bundle, nil
	}
	if info.Size() > maxRootsFile {
		return nil, fmt.Errorf("trust bundle %s: %d bytes, more than %d", f.path, info.Size(), maxRootsFile)
	}
	bundle, err := f.parse()
	if err == nil {
		f.bundle, f.size, f.mtime = bundle, info.Size(), info.ModTime()
	}
	return bundle, err
}

func (f *RootsFile) parse() (*Bundle, error) {
	raw, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("read trust bundle: %w", err)
	}
	var roots []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("trust bundle %s: %w", f.path, err)
		}
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("trust bundle %s: no PEM certificate in it", f.path)
	}
	return NewBundle(map[string][]*x509.Certificate{f.trustDomain: roots})
}

// With returns the roots of current and those that the file has now: after the mesh was made anew with another CA, only
// the file knows. It is current alone if the file cannot be read any more.
func (f *RootsFile) With(current *Bundle) *Bundle {
	file, err := f.Read()
	if err != nil {
		return current
	}
	roots := append(slices.Clone(current.Roots(f.trustDomain)), file.Roots(f.trustDomain)...)
	both, err := NewBundle(map[string][]*x509.Certificate{f.trustDomain: roots})
	if err != nil {
		return current
	}
	return both
}
