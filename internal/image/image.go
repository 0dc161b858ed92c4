// Package image makes container images without a container engine: one layer with a few static binaries, for several
// architectures, as an OCI archive that containerd, podman and docker import.
//
// It owns reproducibility: the same input files give the same bytes, whoever builds, wherever and whenever. So nothing
// in an image has a time, an owner or an order that comes from the building machine.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is one file of an image.
type File struct {
	// Path is absolute, in the image.
	Path string
	Data []byte
	Mode int64
}

// Spec says what an image is, the same for every architecture.
type Spec struct {
	// Ref is the whole name: registry/repository:tag.
	Ref        string
	Entrypoint []string
	// User is "uid:gid".
	User string
	// Labels are shown by "inspect"; the keys of org.opencontainers.image are usual.
	Labels map[string]string
}

// Index makes the image of every architecture; files gives the content for one.
func Index(spec Spec, arches []string, files func(arch string) ([]File, error)) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range slices.Sorted(slices.Values(arches)) {
		content, err := files(arch)
		if err != nil {
			return nil, err
		}
		img, err := build(spec, arch, content)
		if err != nil {
			return nil, fmt.Errorf("image %s for %s: %w", spec.Ref, arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return index, nil
}

func build(spec Spec, arch string, files []File) (v1.Image, error) {
	raw, err := layer(files)
	if err != nil {
		return nil, err
	}
	opener := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
	l, err := tarball.LayerFromOpener(opener, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), l)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Created = v1.Time{Time: epoch()}
	config.History = nil
	config.Config = v1.Config{Entrypoint: spec.Entrypoint, User: spec.User, Labels: spec.Labels, WorkingDir: "/",
		Env: []string{"PATH=/"}}
	return mutate.ConfigFile(img, config)
}

// passwd names the two users that images run as: some programs look their own name up.
const passwd = "root:x:0:0:root:/:/\nnonroot:x:65532:65532:nonroot:/:/\n"

// layer is the tar of the files and the folders that they are in, in order of their names.
func layer(files []File) ([]byte, error) {
	files = append([]File{{Path: "/etc/passwd", Data: []byte(passwd), Mode: 0o644}}, files...)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{"/": true}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || made[f.Path] {
			return nil, fmt.Errorf("file %q: want a clean absolute path that occurs once", f.Path)
		}
		made[f.Path] = true
		if err := folders(w, path.Dir(f.Path), made); err != nil {
			return nil, err
		}
		if err := put(w, strings.TrimPrefix(f.Path, "/"), f.Data, f.Mode); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("close the layer: %w", err)
	}
	return out.Bytes(), nil
}

func folders(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := folders(w, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755,
		ModTime: epoch(), Format: tar.FormatUSTAR})
}

// put writes one file owned by root and dated 1970.
func put(w *tar.Writer, name string, data []byte, mode int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: epoch(),
		Format: tar.FormatUSTAR}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func epoch() time.Time { return time.Unix(0, 0).UTC() }
