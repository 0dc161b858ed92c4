package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/warren-mesh/warren/internal/cluster"
	"github.com/warren-mesh/warren/internal/release"
)

// kubeFlags say which cluster.
type kubeFlags struct {
	kubeconfig, context, namespace string
}

// named says whether the command line asks for a cluster.
func (k kubeFlags) named() bool { return k.kubeconfig != "" || k.context != "" }

// cluster reads the kubeconfig. Errors are sentences with a hint.
func (a *app) cluster() (*cluster.Cluster, error) {
	c, err := a.openCluster(cluster.Target{
		Kubeconfig: a.kube.kubeconfig, Context: a.kube.context, Namespace: a.kube.namespace,
		Getenv: a.getenv, UserAgent: "agentctl/" + a.version,
	})
	if errors.Is(err, cluster.ErrNoKubeconfig) {
		return nil, &failure{text: err.Error(), hint: "name one with --kubeconfig FILE or $KUBECONFIG", err: err}
	}
	if err != nil {
		return nil, &failure{text: err.Error(), hint: "see: kubectl config get-contexts", err: err}
	}
	return c, nil
}

// findLeader connects to the controller that leads in the cluster. Every redial looks for the leader anew.
func (a *app) findLeader(ctx context.Context) (endpoint, error) {
	c, err := a.cluster()
	if err != nil {
		return endpoint{}, err
	}
	a.asked = c
	dial := func(ctx context.Context) (net.Conn, error) {
		pod, err := c.Leader(ctx)
		if err != nil {
			return nil, err
		}
		return c.Forward(ctx, pod, cluster.AdminPort)
	}
	conn, err := dial(ctx)
	if err != nil {
		return endpoint{}, a.explainKube(c, err)
	}
	return endpoint{path: fmt.Sprintf("the controller in %s", c), conn: conn, redial: dial}, nil
}

// explainKube adds to an error of a cluster what to do about it.
func (a *app) explainKube(c *cluster.Cluster, err error) error {
	f := &failure{text: err.Error(), err: err}
	var onNet *net.OpError
	var noHost *net.DNSError
	switch {
	case errors.Is(err, cluster.ErrNotInstalled):
		f.hint = "install it: agentctl install; or say where it is: --warren-namespace NAME"
	case errors.Is(err, cluster.ErrNoLeader):
		f.hint = fmt.Sprintf("see its pods: kubectl -n %s get pods -l app.kubernetes.io/name=%s", c.Namespace, cluster.Controller)
	case apierrors.IsForbidden(err):
		f.hint = fmt.Sprintf("to ask the mesh, your user needs in namespace %s: get leases, get pods, create pods/portforward; "+
			"to install it, what agentctl check --pre lists", c.Namespace)
	case apierrors.IsUnauthorized(err):
		f.hint = "the kubeconfig's credentials are not accepted: log in again"
	case errors.As(err, &noHost), errors.As(err, &onNet), errors.Is(err, context.DeadlineExceeded):
		f.hint = fmt.Sprintf("does the API server answer? kubectl --context %s get --raw /readyz", c.Context)
	}
	return f
}

// warrenNamespace is where Warren is or shall be.
func (a *app) warrenNamespace() string {
	if a.kube.namespace != "" {
		return a.kube.namespace
	}
	return release.Namespace
}
