// Package images makes the container images of the end-to-end tests: one layer of static files, written as archives
// that every container runtime imports. No registry and no daemon is involved.
package images

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const module = "github.com/warren-mesh/warren"

// Names of the images that Build makes.
const (
	Pause   = "localhost/pause:1"
	CoreDNS = "localhost/coredns:1"
	Sample  = "localhost/sample:1" // the project's own cmd/sample, as /sample
	Health  = "localhost/health:1" // answers gRPC health checks
)

// Image says what an image is made of.
type Image struct {
	Ref        string            // with tag
	Files      map[string]string // path in the image → an executable on this machine
	Entrypoint []string
	User       string // "" is root
}

// Write writes an image's archive to a file.
func Write(file string, img Image) error {
	tag, err := name.NewTag(img.Ref)
	if err != nil {
		return err
	}
	raw, err := layer(img.Files)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Ref, err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
	l, err := tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Ref, err)
	}
	base, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return err
	}
	cfg, err := base.ConfigFile()
	if err != nil {
		return err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config = v1.Config{Entrypoint: img.Entrypoint, User: img.User, Env: []string{"PATH=/"}}
	full, err := mutate.ConfigFile(base, cfg)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, full)
}

// layer is a file system with the files, and the directories that every container expects.
func layer(files map[string]string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	dirs := []string{"dev", "etc", "proc", "run", "sys", "tmp"}
	for target := range files {
		for d := path.Dir(path.Clean(target))[1:]; d != "" && d != "."; d = path.Dir(d) {
			dirs = append(dirs, d)
		}
	}
	slices.Sort(dirs)
	for _, d := range slices.Compact(dirs) {
		mode := int64(0o755)
		if d == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: mode}); err != nil {
			return nil, err
		}
	}
	for target, source := range files {
		content, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: path.Clean(target)[1:], Mode: 0o755, Size: int64(len(content))}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// Build builds what the tests' clusters run, from this module's sources and CoreDNS in binDir, and returns the
// archives that it wrote into dir.
func Build(ctx context.Context, binDir, dir string) (archives []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for target, pkg := range map[string]string{"pause": "test/e2e/images/pause", "health": "test/e2e/images/health", "sample": "cmd/sample"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(dir, target), path.Join(module, pkg))
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	list := []Image{
		{Ref: Pause, Files: map[string]string{"/pause": filepath.Join(dir, "pause")}, Entrypoint: []string{"/pause"}, User: "65535"},
		{Ref: Sample, Files: map[string]string{"/sample": filepath.Join(dir, "sample")}, Entrypoint: []string{"/sample"}},
		{Ref: Health, Files: map[string]string{"/health": filepath.Join(dir, "health")}, Entrypoint: []string{"/health"}, User: "65535"},
		{Ref: CoreDNS, Files: map[string]string{"/coredns": filepath.Join(binDir, "coredns")}, Entrypoint: []string{"/coredns"}},
	}
	for _, img := range list {
		archive := filepath.Join(dir, path.Base(cmp.Or(img.Entrypoint...))+".tar")
		if err := Write(archive, img); err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}
