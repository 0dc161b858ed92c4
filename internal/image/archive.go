package image

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Archive writes index as an OCI archive (image-spec, image-layout.md, in a tar) in which it is named ref. Blobs come in
// the order in which they are referred to, each once.
func Archive(w io.Writer, index v1.ImageIndex, ref string) error {
	a := archive{tar: tar.NewWriter(w), written: make(map[v1.Hash]bool)}
	if err := put(a.tar, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	top, err := partial.Descriptor(index)
	if err != nil {
		return fmt.Errorf("describe the index of %s: %w", ref, err)
	}
	_, tag, _ := strings.Cut(ref[strings.LastIndex(ref, "/")+1:], ":")
	// containerd takes the whole name from the first annotation, others the tag from the second.
	top.Annotations = map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": tag}
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*top}})
	if err != nil {
		return fmt.Errorf("write the index of %s: %w", ref, err)
	}
	if err := put(a.tar, "index.json", raw, 0o644); err != nil {
		return err
	}
	if err := a.index(index); err != nil {
		return fmt.Errorf("archive %s: %w", ref, err)
	}
	if err := a.tar.Close(); err != nil {
		return fmt.Errorf("close the archive of %s: %w", ref, err)
	}
	return nil
}

type archive struct {
	tar     *tar.Writer
	written map[v1.Hash]bool
}

func (a *archive) blob(h v1.Hash, data []byte) error {
	if a.written[h] {
		return nil
	}
	a.written[h] = true
	return put(a.tar, "blobs/"+h.Algorithm+"/"+h.Hex, data, 0o644)
}

func (a *archive) index(index v1.ImageIndex) error {
	if err := a.manifest(index); err != nil {
		return err
	}
	list, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, d := range list.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			return err
		}
		if err := a.image(img); err != nil {
			return err
		}
	}
	return nil
}

// described is an image or an index.
type described interface {
	Digest() (v1.Hash, error)
	RawManifest() ([]byte, error)
}

func (a *archive) manifest(d described) error {
	h, err := d.Digest()
	if err != nil {
		return err
	}
	raw, err := d.RawManifest()
	if err != nil {
		return err
	}
	return a.blob(h, raw)
}

func (a *archive) image(img v1.Image) error {
	if err := a.manifest(img); err != nil {
		return err
	}
	h, err := img.ConfigName()
	if err != nil {
		return err
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	if err := a.blob(h, raw); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := a.layer(l); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) layer(l v1.Layer) error {
	h, err := l.Digest()
	if err != nil {
		return err
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read layer %s: %w", h, err)
	}
	return a.blob(h, data)
}
