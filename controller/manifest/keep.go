package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// keptPath names the copy of a file's last good content.
func (l *Loader) keptPath(path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(l.cfg.KeepDir, hex.EncodeToString(sum[:16])+".yaml")
}

// keep writes a copy of good content, whole or not at all.
func (l *Loader) keep(path string, data []byte) error {
	if l.cfg.KeepDir == "" {
		return nil
	}
	tmp, err := os.CreateTemp(l.cfg.KeepDir, ".keep-*") // 0600
	if err != nil {
		return fmt.Errorf("%s: keep a copy: %w", path, err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), l.keptPath(path))
	}
	if err != nil {
		return fmt.Errorf("%s: keep a copy: %w", path, errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}

// kept returns what an earlier run kept of a file, nothing if there is no copy or this version cannot read it.
func (l *Loader) kept(path string) parsed {
	if l.cfg.KeepDir == "" {
		return parsed{}
	}
	data, err := os.ReadFile(l.keptPath(path))
	if err != nil {
		return parsed{}
	}
	content, err := parse(path, data)
	if err != nil {
		return parsed{}
	}
	return content
}

func (l *Loader) dropKept(path string) {
	if l.cfg.KeepDir != "" {
		_ = os.Remove(l.keptPath(path)) // a copy that stays is only read if the file returns and is bad
	}
}
