// Command images builds Warren's container images as OCI archives, without a container engine: `make images`.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/warren-mesh/warren/internal/image"
)

// product is one image: which commands it holds, under which names.
type product struct {
	name     string
	user     string
	binaries map[string]string // package under cmd/ → path in the image
	entry    string
}

func products() []product {
	return []product{
		// The agent is root, with the few capabilities that the chart gives it: it enters pods' network namespaces.
		{name: "warren-agent", user: "0:0", entry: "/agent",
			binaries: map[string]string{"agent": "/agent", "cni": "/warren-cni", "agentctl": "/agentctl"}},
		{name: "warren-controller", user: "65532:65532", entry: "/controller",
			binaries: map[string]string{"controller": "/controller"}},
		{name: "warren-waypoint", user: "65532:65532", entry: "/waypoint",
			binaries: map[string]string{"waypoint": "/waypoint"}},
	}
}

// builder builds for some architectures into a folder.
type builder struct {
	out, registry, version string
	arches                 []string
}

func main() {
	var b builder
	var arches string
	flag.StringVar(&b.out, "out", "bin/images", "folder for the archives")
	flag.StringVar(&b.registry, "registry", "ghcr.io/warren-mesh", "registry and folder of the images' names")
	flag.StringVar(&b.version, "version", "", "version that the binaries report; the tag of the images")
	flag.StringVar(&arches, "arches", "amd64,arm64", "architectures, by their GOARCH")
	flag.Parse()
	b.arches = strings.Split(arches, ",")
	for _, p := range products() {
		if err := b.product(p); err != nil {
			fmt.Fprintln(os.Stderr, "images:", err)
			os.Exit(1)
		}
	}
}

func (b *builder) product(p product) error {
	spec := image.Spec{Ref: b.registry + "/" + p.name + ":" + b.version, Entrypoint: []string{p.entry}, User: p.user,
		Labels: map[string]string{
			"org.opencontainers.image.title":    p.name,
			"org.opencontainers.image.version":  b.version,
			"org.opencontainers.image.source":   "https://github.com/warren-mesh/warren",
			"org.opencontainers.image.licenses": "Apache-2.0",
		}}
	index, err := image.Index(spec, b.arches, func(arch string) (files []image.File, err error) {
		for pkg, path := range p.binaries {
			data, err := b.compile(pkg, arch)
			if err != nil {
				return nil, err
			}
			files = append(files, image.File{Path: path, Data: data, Mode: 0o755})
		}
		return files, nil
	})
	if err != nil {
		return err
	}
	return b.write(filepath.Join(b.out, p.name+".tar"), spec.Ref, func(f *os.File) error { return image.Archive(f, index, spec.Ref) })
}

// write makes a file aside and renames it, so that an archive is whole or not there.
func (b *builder) write(name, ref string, fill func(*os.File) error) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", b.out, err)
	}
	f, err := os.CreateTemp(b.out, ".archive-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	fmt.Printf("%s  %s (%s)\n", name, ref, strings.Join(b.arches, ", "))
	return nil
}

// compile returns the static binary of cmd/pkg. Nothing of the machine goes in: no paths, no build id, no commit.
func (b *builder) compile(pkg, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "warren-images-")
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", pkg, err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, pkg)
	ld := "-s -w -buildid= -X github.com/warren-mesh/warren/internal/version.release=" + b.version
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", ld, "-o", name, "./cmd/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build cmd/%s for %s: %w", pkg, arch, err)
	}
	return os.ReadFile(name)
}
