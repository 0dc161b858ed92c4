// Package release puts the chart into a cluster and takes it out again, with Helm's own machinery, so that helm and
// agentctl can be used in turn on the same release.
//
// It owns the release's name, the chart's loading and rendering, and what uninstalling leaves or not. It prints nothing.
package release

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/warren-mesh/warren/deploy"
)

const (
	// Name is the release's name.
	Name = "warren"
	// Namespace is where it goes unless told otherwise.
	Namespace = "warren-system"
	// CRDRevision is the annotation that counts the changes of the CRDs, on them and on the chart.
	CRDRevision = "warren.dev/crd-revision"
	// MinKubernetes is the oldest version that the chart is for: chart/Chart.yaml says the same.
	MinKubernetes = "v1.30.0"
	// maxHistory is how many revisions stay for `helm rollback`.
	maxHistory = 5
)

// Chart loads the embedded chart.
func Chart() (*chartv2.Chart, error) {
	files, err := chartFiles(deploy.Chart())
	if err != nil {
		return nil, fmt.Errorf("load the embedded chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("load the embedded chart: %w", err)
	}
	return c, nil
}

// chartFiles lists what belongs to the chart; examples are for readers.
func chartFiles(from fs.FS) (files []*archive.BufferedFile, err error) {
	err = fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == "examples" {
				return fs.SkipDir
			}
			return nil
		}
		data, err := fs.ReadFile(from, name)
		files = append(files, &archive.BufferedFile{Name: name, Data: data})
		return err
	})
	return files, err
}

// Values merges files, later over earlier, and then settings such as "agent.drainTimeout=10s" over them.
func Values(files [][]byte, sets []string) (map[string]any, error) {
	values := make(map[string]any)
	for _, raw := range files {
		one, err := loader.LoadValues(bytes.NewReader(raw))
		if err != nil {
			return nil, fmt.Errorf("values: %w", err)
		}
		values = loader.MergeMaps(values, one)
	}
	for _, s := range sets {
		if err := strvals.ParseInto(s, values); err != nil {
			return nil, fmt.Errorf("setting %q: %w", s, err)
		}
	}
	return values, nil
}

// Render returns the manifests, hooks apart, that an installation would apply. It asks no cluster.
func Render(ctx context.Context, namespace string, values map[string]any) (manifests string, hooks []*helmrelease.Hook, err error) {
	c, err := Chart()
	if err != nil {
		return "", nil, err
	}
	install := action.NewInstall(action.NewConfiguration(action.ConfigurationSetLogger(slog.DiscardHandler)))
	install.DryRunStrategy = action.DryRunClient
	// Without a cluster helm assumes a version that is older than the chart's oldest.
	if install.KubeVersion, err = common.ParseKubeVersion(MinKubernetes); err != nil {
		return "", nil, fmt.Errorf("render the chart: %w", err)
	}
	install.ReleaseName, install.Namespace = Name, namespace
	out, err := install.RunWithContext(ctx, c, values)
	if err != nil {
		return "", nil, explain(err)
	}
	rel, ok := out.(*helmrelease.Release)
	if !ok {
		return "", nil, fmt.Errorf("render the chart: helm returned a release of type %T", out)
	}
	return rel.Manifest, rel.Hooks, nil
}

// Cluster does the releases of one cluster and namespace.
type Cluster struct {
	cfg       *action.Configuration
	namespace string
}

// NewCluster prepares the releases in namespace of the cluster that getter reaches. Helm's log goes to log.
func NewCluster(getter genericclioptions.RESTClientGetter, namespace string, log *slog.Logger) (*Cluster, error) {
	cfg := action.NewConfiguration(action.ConfigurationSetLogger(log.Handler()))
	if err := cfg.Init(getter, namespace, ""); err != nil {
		return nil, fmt.Errorf("prepare helm: %w", err)
	}
	return &Cluster{cfg: cfg, namespace: namespace}, nil
}

// HookOutput sends what hooks' containers print to w.
func (c *Cluster) HookOutput(w io.Writer) {
	c.cfg.SetHookOutputFunc(func(_, _, _ string) io.Writer { return w })
}

// Install makes a new release and returns once everything is applied; that it runs is for the caller to wait for.
func (c *Cluster) Install(ctx context.Context, values map[string]any, timeout time.Duration) error {
	chart, err := Chart()
	if err != nil {
		return err
	}
	install := action.NewInstall(c.cfg)
	install.ReleaseName, install.Namespace = Name, c.namespace
	install.CreateNamespace = true
	install.WaitStrategy = kube.HookOnlyStrategy
	install.Timeout = timeout
	// The controller and the hook write into objects of the chart; what the chart says goes.
	install.ForceConflicts = true
	if _, err := install.RunWithContext(ctx, chart, values); err != nil {
		return explain(err)
	}
	return nil
}

// Upgrade brings the release to this chart. Values that were given earlier stay unless reset or given anew.
func (c *Cluster) Upgrade(ctx context.Context, values map[string]any, reset bool, timeout time.Duration) error {
	chart, err := Chart()
	if err != nil {
		return err
	}
	upgrade := action.NewUpgrade(c.cfg)
	upgrade.Namespace = c.namespace
	// Defaults come from the new chart, what the user chose from the release.
	upgrade.ResetThenReuseValues, upgrade.ResetValues = !reset, reset
	upgrade.ForceConflicts = true
	upgrade.ServerSideApply = "true"
	upgrade.WaitStrategy = kube.HookOnlyStrategy
	upgrade.Timeout = timeout
	upgrade.MaxHistory = maxHistory
	if _, err := upgrade.RunWithContext(ctx, Name, chart, values); err != nil {
		return explain(err)
	}
	return nil
}

// Uninstall deletes the release, its hook first, and waits until its objects are gone. kept is what helm left because
// the objects say so.
func (c *Cluster) Uninstall(hooks bool, timeout time.Duration) (kept string, err error) {
	u := action.NewUninstall(c.cfg)
	u.DisableHooks = !hooks
	u.WaitStrategy = kube.StatusWatcherStrategy
	u.DeletionPropagation = "foreground"
	u.Timeout = timeout
	reply, err := u.Run(Name)
	if err != nil {
		return "", explain(err)
	}
	return reply.Info, nil
}

// Info is what is known of an existing release.
type Info struct {
	Chart    string
	App      string
	Revision int
	Status   string
}

// Existing returns the newest revision of the release; ok is false if there is none.
func (c *Cluster) Existing() (info Info, ok bool, err error) {
	history, err := c.cfg.Releases.History(Name)
	if err != nil {
		if strings.Contains(err.Error(), "not found") {
			return Info{}, false, nil
		}
		return Info{}, false, fmt.Errorf("read the releases in namespace %s: %w", c.namespace, err)
	}
	for _, one := range history {
		rel, is := one.(*helmrelease.Release)
		if !is || rel.Version < info.Revision {
			continue
		}
		info = Info{Revision: rel.Version, Status: rel.Info.Status.String()}
		if rel.Chart != nil && rel.Chart.Metadata != nil {
			info.Chart, info.App = rel.Chart.Metadata.Version, rel.Chart.Metadata.AppVersion
		}
	}
	return info, info.Revision > 0, nil
}

// explain puts what helm says of values into a sentence, on one line.
func explain(err error) error {
	text := err.Error()
	if !strings.Contains(text, "values don't meet the specifications of the schema") {
		return err
	}
	var found []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "- ") {
			found = append(found, strings.TrimPrefix(line, "- "))
		}
	}
	return fmt.Errorf("values that the chart does not take: %s", strings.Join(found, "; "))
}
