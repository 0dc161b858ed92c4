package ca

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestANewRootSigns: what NewRoot gives is what Open takes.
func TestANewRootSigns(t *testing.T) {
	cert, key, err := NewRoot("mesh.example")
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		TrustDomain: "mesh.example", CertFile: filepath.Join(t.TempDir(), "tls.crt"), KeyFile: filepath.Join(t.TempDir(), "tls.key"),
		Log: slog.New(slog.DiscardHandler),
	}
	for path, content := range map[string][]byte{config.CertFile: cert, config.KeyFile: key} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(config); err != nil {
		t.Error(err)
	}
	config.TrustDomain = "other.example"
	if _, err := Open(config); err == nil {
		t.Error("a root of mesh.example signs for other.example")
	}
}
