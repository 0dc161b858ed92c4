package identity

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Cache keeps SVIDs with their private keys in files of mode 0600 in a directory of mode 0700, one a SPIFFE id, so
// that a restarted agent serves while the CA is gone. What it cannot read it ignores, logs and counts. A nil Cache
// holds nothing. Several goroutines may use it; several processes may not.
type Cache struct {
	dir     string
	log     *slog.Logger
	ignored atomic.Uint64
}

const (
	cacheSuffix   = ".svid.pem"
	tempSuffix    = ".tmp"
	maxCachedFile = 64 << 10
)

// OpenCache makes the directory if need be, narrows its mode to 0700, and removes what an earlier process left half
// written and what has expired at now.
// Returns an error if dir is a symbolic link or no directory, or cannot be made.
func OpenCache(dir string, now time.Time, log *slog.Logger) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("SVID cache: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("SVID cache: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("SVID cache: %s is not a directory (mode %s)", dir, info.Mode())
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("SVID cache: %w", err)
	}
	c := &Cache{dir: dir, log: log}
	return c, c.sweep(now)
}

func (c *Cache) sweep(now time.Time) error {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("SVID cache: %w", err)
	}
	for _, file := range files {
		path := filepath.Join(c.dir, file.Name())
		if strings.HasSuffix(file.Name(), tempSuffix) {
			os.Remove(path)
			continue
		}
		if !strings.HasSuffix(file.Name(), cacheSuffix) {
			continue
		}
		if svid, err := read(path); err == nil && svid.Expired(now) {
			os.Remove(path)
		}
	}
	return nil
}

// Ignored counts the files that were there but not usable.
func (c *Cache) Ignored() uint64 {
	if c == nil {
		return 0
	}
	return c.ignored.Load()
}

// Load returns the cached SVID of a SPIFFE id, if a usable one is there that has not expired at now. The chain is not
// verified against any root.
func (c *Cache) Load(id string, now time.Time) (*SVID, bool) {
	if c == nil {
		return nil, false
	}
	path := c.path(id)
	svid, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err == nil && svid.ID != id {
		err = fmt.Errorf("it is for %q", svid.ID)
	}
	if err != nil {
		c.ignored.Add(1)
		c.log.Warn("cached SVID is ignored", "id", id, "file", path, "err", err)
		return nil, false
	}
	return svid, !svid.Expired(now)
}

// Save replaces the cached SVID of s.ID. A crash leaves the old one or the new one.
func (c *Cache) Save(s *SVID) error {
	if c == nil {
		return nil
	}
	key, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		return fmt.Errorf("cache SVID %s: %w", s.ID, err)
	}
	var text bytes.Buffer
	pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: key}) // a Buffer takes all
	for _, cert := range s.Chain {
		pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	if err := replace(c.path(s.ID), text.Bytes()); err != nil {
		return fmt.Errorf("cache SVID %s: %w", s.ID, err)
	}
	return nil
}

// Remove drops the cached SVID of a SPIFFE id, if there is one.
func (c *Cache) Remove(id string) {
	if c == nil {
		return
	}
	if err := os.Remove(c.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("cached SVID stays on disk", "id", id, "err", err)
	}
}

// path is made of a hash: an id may be longer than a file's name, and nothing in it shall name a path.
func (c *Cache) path(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:])+cacheSuffix)
}

// replace writes a file of mode 0600 beside path, syncs it and renames it over path.
func replace(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+tempSuffix) // 0600, O_EXCL
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		os.Remove(file.Name())
	}
	return err
}

// read reads a file that must be a regular one, ours alone, and no symbolic link.
func read(path string) (*SVID, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("mode %s: not a regular file that only its owner may read", info.Mode())
	}
	data, err := io.ReadAll(io.LimitReader(file, maxCachedFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxCachedFile {
		return nil, fmt.Errorf("longer than %d bytes", maxCachedFile)
	}
	return decode(data)
}

// decode parses one private key (PKCS #8) and a chain, PEM.
func decode(data []byte) (*SVID, error) {
	var key crypto.Signer
	var chain [][]byte
	for len(data) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, errors.New("bytes that are not PEM")
		}
		data = rest
		switch {
		case block.Type == "CERTIFICATE":
			chain = append(chain, block.Bytes)
		case block.Type == "PRIVATE KEY" && key == nil:
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("private key: %w", err)
			}
			signer, ok := parsed.(crypto.Signer)
			if !ok {
				return nil, fmt.Errorf("private key of type %T cannot sign", parsed)
			}
			key = signer
		default:
			return nil, fmt.Errorf("an unexpected PEM block %q", block.Type)
		}
	}
	if key == nil {
		return nil, errors.New("no private key")
	}
	return NewSVID(chain, key)
}
