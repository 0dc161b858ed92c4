// Package cluster is agentctl's way into a Kubernetes cluster: which one a kubeconfig means, the controller's leader in
// it, a connection to a pod's port, and what is known of a cluster before and after an installation.
//
// It reads; only installing and uninstalling write, through internal/release and Sweep. It prints nothing.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Names of what the chart and the controller make; see the chart.
const (
	Agent            = "warren-agent"
	Controller       = "warren-controller"
	Lease            = "warren-controller"
	AdminPort        = 15013
	caSecret         = "warren-ca"
	rootsConfigMap   = "warren-roots"
	meshConfigMap    = "warren-mesh"
	leaveHook        = "warren-leave"
	leaderSlice      = "warren-controller-leader"
	appLabel         = "app.kubernetes.io/name"
	managedBy        = "app.kubernetes.io/managed-by"
	managedByUs      = "agentctl"
	defaultNamespace = "warren-system"
)

// ErrNoKubeconfig means that no kubeconfig names a cluster.
var ErrNoKubeconfig = errors.New("there is no kubeconfig")

// Target says which cluster, and the namespace that Warren is in.
type Target struct {
	// Kubeconfig is a file; empty means those of $KUBECONFIG or ~/.kube/config.
	Kubeconfig string
	// Context is one of the kubeconfig; empty means its current one.
	Context   string
	Namespace string
	// Getenv and UserAgent are the process's.
	Getenv    func(string) string
	UserAgent string
}

// Cluster is one cluster, reached with one user's rights.
type Cluster struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface
	Namespace string
	// Context is the kubeconfig's name for it, and Host its API server.
	Context, Host string

	rest   *rest.Config
	loader clientcmd.ClientConfig
}

// Open reads the kubeconfig; it does not connect. Returns ErrNoKubeconfig if no file names a cluster.
func Open(t Target) (*Cluster, error) {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: t.Kubeconfig, Precedence: t.files(), WarnIfAllMissing: false}
	if t.Kubeconfig == "" && !anyExists(rules.Precedence) {
		return nil, ErrNoKubeconfig
	}
	over := &clientcmd.ConfigOverrides{CurrentContext: t.Context}
	if t.Namespace == "" {
		t.Namespace = defaultNamespace
	}
	over.Context.Namespace = t.Namespace
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, over)
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	current := t.Context
	if current == "" {
		current = raw.CurrentContext
	}
	if raw.Contexts[current] == nil {
		if current == "" {
			return nil, fmt.Errorf("%w that says which context is the current one", ErrNoKubeconfig)
		}
		return nil, fmt.Errorf("the kubeconfig has no context %q; it has %s", current, names(raw.Contexts))
	}
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	cfg.UserAgent = t.UserAgent
	// A person waits: the default of 5 requests a second would make a check of everything slow.
	cfg.QPS, cfg.Burst = 50, 100
	c := &Cluster{Namespace: t.Namespace, Context: current, Host: cfg.Host, rest: cfg, loader: loader}
	if c.Client, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("prepare to reach %s: %w", cfg.Host, err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, fmt.Errorf("prepare to reach %s: %w", cfg.Host, err)
	}
	return c, nil
}

func (t Target) files() []string {
	if list := t.Getenv("KUBECONFIG"); list != "" {
		return filepath.SplitList(list)
	}
	if home := t.Getenv("HOME"); home != "" {
		return []string{filepath.Join(home, ".kube", "config")}
	}
	return nil
}

func anyExists(files []string) bool {
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			return true
		}
	}
	return false
}

func names[V any](m map[string]V) string {
	var list []string
	for name := range m {
		list = append(list, name)
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(sorted(list), ", ")
}

// String names the cluster as its user does.
func (c *Cluster) String() string { return fmt.Sprintf("cluster %q", c.Context) }

// ToRESTConfig and the next three make a Cluster what Helm asks for.
func (c *Cluster) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(c.rest), nil }

// ToDiscoveryClient implements genericclioptions.RESTClientGetter.
func (c *Cluster) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return memory.NewMemCacheClient(c.Client.Discovery()), nil
}

// ToRESTMapper implements genericclioptions.RESTClientGetter.
func (c *Cluster) ToRESTMapper() (meta.RESTMapper, error) {
	d, err := c.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	return restmapper.NewDeferredDiscoveryRESTMapper(d), nil
}

// ToRawKubeConfigLoader implements genericclioptions.RESTClientGetter.
func (c *Cluster) ToRawKubeConfigLoader() clientcmd.ClientConfig { return c.loader }

// ErrNotInstalled means that the cluster has no controller of Warren in the namespace.
var ErrNotInstalled = errors.New("not installed")

// ErrNoLeader means that no replica of the controller leads at the moment.
var ErrNoLeader = errors.New("no controller leads")

// Leader returns the name of the controller's pod that leads. Returns ErrNotInstalled and ErrNoLeader, wrapped.
func (c *Cluster) Leader(ctx context.Context) (string, error) {
	lease, err := c.Client.CoordinationV1().Leases(c.Namespace).Get(ctx, Lease, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", c.noLease(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("read which controller leads (lease %s/%s): %w", c.Namespace, Lease, err)
	}
	var holder string
	if lease.Spec.HolderIdentity != nil {
		holder, _, _ = strings.Cut(*lease.Spec.HolderIdentity, "_")
		holder, _, _ = strings.Cut(holder, "/")
	}
	if holder == "" {
		return "", fmt.Errorf("%w: nobody holds the lease %s/%s", ErrNoLeader, c.Namespace, Lease)
	}
	if r, d := lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds; r != nil && d != nil {
		if late := time.Since(r.Time); late > time.Duration(*d)*time.Second*3 {
			return "", fmt.Errorf("%w: pod %s holds the lease %s/%s and has not renewed it for %s", ErrNoLeader, holder,
				c.Namespace, Lease, late.Round(time.Second))
		}
	}
	return holder, nil
}

// noLease tells a controller that never led from none at all.
func (c *Cluster) noLease(ctx context.Context) error {
	_, err := c.Client.AppsV1().Deployments(c.Namespace).Get(ctx, Controller, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("the mesh is %w in namespace %s of %s", ErrNotInstalled, c.Namespace, c)
	}
	if err != nil {
		return fmt.Errorf("look for the controller in namespace %s: %w", c.Namespace, err)
	}
	return fmt.Errorf("%w yet: no replica has taken the lease %s/%s", ErrNoLeader, c.Namespace, Lease)
}
