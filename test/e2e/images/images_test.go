package images

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestWrite(t *testing.T) {
	source := filepath.Join(t.TempDir(), "app")
	if err := os.WriteFile(source, []byte("the program"), 0o600); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "app.tar")
	img := Image{Ref: "localhost/app:7", Files: map[string]string{"/opt/bin/app": source}, Entrypoint: []string{"/opt/bin/app"}, User: "7"}
	if err := Write(archive, img); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("localhost/app:7")
	if err != nil {
		t.Fatal(err)
	}
	got, err := tarball.ImageFromPath(archive, &tag)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.OS != "linux" || !slices.Equal(cfg.Config.Entrypoint, img.Entrypoint) || cfg.Config.User != "7" {
		t.Errorf("config %+v", cfg)
	}
	layers, err := got.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers: %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	names, text := entries(t, content)
	if !slices.Contains(names, "opt/bin/") || !slices.Contains(names, "tmp/") || text["opt/bin/app"] != "the program" {
		t.Errorf("entries %v, %v", names, text)
	}
}

func entries(t *testing.T, r io.Reader) (names []string, text map[string]string) {
	t.Helper()
	text = map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names, text
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		raw, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		text[h.Name] = string(raw)
		if h.Typeflag == tar.TypeReg && h.Mode != 0o755 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, img := range []Image{
		{Ref: "no tag at all"},
		{Ref: "localhost/app:1", Files: map[string]string{"/app": "/nowhere"}},
	} {
		archive := filepath.Join(t.TempDir(), "app.tar")
		if err := Write(archive, img); err == nil {
			t.Errorf("%+v was written", img)
		}
		if _, err := os.Stat(archive); err == nil {
			t.Errorf("%+v: something was written", img)
		}
	}
}
