package mesh

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const registry = "localhost/warren"

// Product is one version of the product, built from this checkout.
type Product struct {
	Tag string
	// Images are the archives of its container images, for [cluster.Cluster.LoadImage].
	Images []string
	// Agentctl is the path of its agentctl, which has the chart inside.
	Agentctl string
}

// Build builds images and agentctl, as a release does, into a folder. Two versions of different tags can be told apart,
// and upgraded from one to the other.
func Build(ctx context.Context, dir, tag string) (Product, error) {
	p := Product{Tag: tag, Agentctl: filepath.Join(dir, "agentctl")}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return p, fmt.Errorf("find the module's folder: %w", err)
	}
	ld := "-X github.com/warren-mesh/warren/internal/version.release=" + tag
	for _, args := range [][]string{
		{"run", "./hack/images", "-out", dir, "-arches", "amd64", "-registry", registry, "-version", tag},
		{"build", "-trimpath", "-ldflags", ld, "-o", p.Agentctl, "./cmd/agentctl"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = strings.TrimSpace(string(root))
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build the product: go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	p.Images, err = filepath.Glob(filepath.Join(dir, "warren-*.tar"))
	return p, err
}

// Settings are the arguments with which agentctl install and upgrade take this version's images.
func (p Product) Settings() []string {
	return []string{"--set", "image.registry=" + registry, "--set", "image.tag=" + p.Tag}
}
