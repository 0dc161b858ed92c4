package cluster

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
)

// Facts is what is known of a cluster before an installation. A field's zero value may mean that it could not be read:
// Unread says so.
type Facts struct {
	Version *version.Info
	Nodes   []corev1.Node
	CRDs    []CRD
	// Denied are rights that installing needs and the user lacks: "create clusterroles.rbac.authorization.k8s.io".
	Denied []string
	// Conflicts is what else may take hold of pods' connections.
	Conflicts Conflicts
	// NamespaceLevel is what Pod Security Admission enforces in an existing namespace of Warren; ok if it exists.
	NamespaceLevel  string
	NamespaceExists bool
	Unread          []string
	// GatewayAPI is what waypoints need.
	GatewayAPI GatewayAPI
}

// Look reads the facts. It returns an error only if the API server does not answer at all.
func (c *Cluster) Look(ctx context.Context) (*Facts, error) {
	f := new(Facts)
	var err error
	if f.Version, err = c.Client.Discovery().ServerVersion(); err != nil {
		return nil, fmt.Errorf("%s at %s does not answer: %w", c, c.Host, err)
	}
	steps := []func(context.Context, *Facts) error{c.lookNodes, c.lookCRDs, c.lookRights, c.lookNamespace, c.lookGatewayAPI}
	for _, step := range steps {
		if err := step(ctx, f); err != nil {
			f.Unread = append(f.Unread, err.Error())
		}
	}
	var unread []string
	f.Conflicts, unread = c.Conflicts(ctx)
	f.Unread = append(f.Unread, unread...)
	return f, nil
}

func (c *Cluster) lookNodes(ctx context.Context, f *Facts) error {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	f.Nodes = nodes.Items
	return nil
}

func (c *Cluster) lookCRDs(ctx context.Context, f *Facts) (err error) {
	f.CRDs, err = c.CRDs(ctx)
	return err
}

// right is one thing that installing does.
type right struct {
	group, resource string
	cluster         bool
}

// rights are the kinds of the chart and of agentctl. Granting a role also needs its rules; being told of the missing
// right to do so is left to the API server.
func rights() []right {
	const rbac = "rbac.authorization.k8s.io"
	return []right{
		{"", "namespaces", true}, {"apiextensions.k8s.io", "customresourcedefinitions", true},
		{rbac, "clusterroles", true}, {rbac, "clusterrolebindings", true}, {rbac, "roles", false}, {rbac, "rolebindings", false},
		{"admissionregistration.k8s.io", "validatingadmissionpolicies", true},
		{"admissionregistration.k8s.io", "validatingadmissionpolicybindings", true},
		{"", "serviceaccounts", false}, {"", "services", false}, {"", "configmaps", false}, {"", "secrets", false},
		{"apps", "daemonsets", false}, {"apps", "deployments", false}, {"batch", "jobs", false},
		{"policy", "poddisruptionbudgets", false}, {"networking.k8s.io", "networkpolicies", false},
	}
}

func (c *Cluster) lookRights(ctx context.Context, f *Facts) error {
	for _, r := range rights() {
		for _, verb := range []string{"create", "get", "patch", "delete"} {
			attrs := &authorizationv1.ResourceAttributes{Verb: verb, Group: r.group, Resource: r.resource}
			if !r.cluster {
				attrs.Namespace = c.Namespace
			}
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attrs}}
			reply, err := c.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("ask which rights there are: %w", err)
			}
			if !reply.Status.Allowed {
				f.Denied = append(f.Denied, deniedText(verb, r, c.Namespace))
			}
		}
	}
	return nil
}

func deniedText(verb string, r right, namespace string) string {
	text := verb + " " + r.resource
	if r.group != "" {
		text += "." + r.group
	}
	if !r.cluster {
		text += " in namespace " + namespace
	}
	return text
}

func dig(o any, path ...string) any {
	for _, p := range path {
		m, ok := o.(map[string]any)
		if !ok {
			return nil
		}
		o = m[p]
	}
	return o
}

func (c *Cluster) lookNamespace(ctx context.Context, f *Facts) error {
	ns, err := c.Client.CoreV1().Namespaces().Get(ctx, c.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read namespace %s: %w", c.Namespace, err)
	}
	f.NamespaceExists, f.NamespaceLevel = true, ns.Labels["pod-security.kubernetes.io/enforce"]
	return nil
}
