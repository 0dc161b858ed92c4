package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func testFiles(arch string) ([]File, error) {
	return []File{
		{Path: "/opt/b", Data: []byte("b for " + arch), Mode: 0o755},
		{Path: "/a", Data: []byte("the same for all"), Mode: 0o755},
	}, nil
}

func testArchive(t *testing.T, arches ...string) []byte {
	t.Helper()
	spec := Spec{Ref: "localhost:5000/x/agent:v1", Entrypoint: []string{"/a"}, User: "65532:65532", Labels: map[string]string{"k": "v"}}
	index, err := Index(spec, arches, testFiles)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Archive(&out, index, spec.Ref); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestTheSameFilesGiveTheSameBytes(t *testing.T) {
	first := testArchive(t, "amd64", "arm64")
	if !bytes.Equal(first, testArchive(t, "arm64", "amd64")) {
		t.Error("the same files gave other bytes")
	}
	if bytes.Equal(first, testArchive(t, "amd64")) {
		t.Error("leaving an architecture out changed nothing")
	}
}

// TestArchiveIsWhole walks the archive as an importer does: every digest is there, and is that of its bytes.
func TestArchiveIsWhole(t *testing.T) {
	blobs := untar(t, testArchive(t, "amd64", "arm64"))
	var top v1.IndexManifest
	decode(t, blobs["index.json"], &top)
	if got := top.Manifests[0].Annotations["io.containerd.image.name"]; got != "localhost:5000/x/agent:v1" {
		t.Errorf("it is named %q", got)
	}
	if got := top.Manifests[0].Annotations["org.opencontainers.image.ref.name"]; got != "v1" {
		t.Errorf("its tag is %q", got)
	}
	var index v1.IndexManifest
	decode(t, blob(t, blobs, top.Manifests[0].Digest), &index)
	var arches []string
	for _, m := range index.Manifests {
		arches = append(arches, m.Platform.Architecture)
		var manifest v1.Manifest
		decode(t, blob(t, blobs, m.Digest), &manifest)
		var config v1.ConfigFile
		decode(t, blob(t, blobs, manifest.Config.Digest), &config)
		if config.Architecture != m.Platform.Architecture || config.Config.User != "65532:65532" || config.Config.Entrypoint[0] != "/a" {
			t.Errorf("%s: config is %+v", m.Platform, config)
		}
		blob(t, blobs, manifest.Layers[0].Digest)
	}
	if !slices.Equal(arches, []string{"amd64", "arm64"}) {
		t.Errorf("architectures are %v", arches)
	}
}

func TestLayerHoldsFilesAndTheirFolders(t *testing.T) {
	files, _ := testFiles("amd64")
	raw, err := layer(files)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: uid %d, time %v", h.Name, h.Uid, h.ModTime)
		}
		names = append(names, h.Name)
	}
	if want := []string{"a", "etc/", "etc/passwd", "opt/", "opt/b"}; !slices.Equal(names, want) {
		t.Errorf("the layer holds %v, want %v", names, want)
	}
}

func TestLayerRefusesUncleanPaths(t *testing.T) {
	for _, p := range []string{"a", "/a/../b", "/etc/passwd", "/a/"} {
		if _, err := layer([]File{{Path: p}}); err == nil || !strings.Contains(err.Error(), "want a clean absolute path") {
			t.Errorf("path %q: %v", p, err)
		}
	}
}

func untar(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name] != nil {
			t.Errorf("%s occurs twice", h.Name)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func blob(t *testing.T, blobs map[string][]byte, h v1.Hash) []byte {
	t.Helper()
	data, ok := blobs["blobs/sha256/"+h.Hex]
	if !ok {
		t.Fatalf("blob %s is missing", h)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != h.Hex {
		t.Errorf("blob %s has other bytes", h)
	}
	return data
}

func decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}
