package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

const (
	// maxLog bounds the log of one container, bytes, and maxLogs how many containers' logs are read.
	maxLog  = 8 << 20
	maxLogs = 400
)

// Collect gives what the cluster knows of Warren, piece by piece: a name and its content, or why it cannot be had. It
// never reads a Secret.
func (c *Cluster) Collect(ctx context.Context, since time.Duration, give func(name string, data []byte, err error)) {
	v, err := c.Client.Discovery().ServerVersion()
	giveYAML(give, "version.yaml", v, err)
	for _, one := range []struct {
		name, namespace, group, version, resource string
	}{
		{"daemonsets", c.Namespace, "apps", "v1", "daemonsets"},
		{"deployments", c.Namespace, "apps", "v1", "deployments"},
		{"pods", c.Namespace, "", "v1", "pods"},
		{"events", c.Namespace, "", "v1", "events"},
		{"configmaps", c.Namespace, "", "v1", "configmaps"},
		{"services", c.Namespace, "", "v1", "services"},
		{"leases", c.Namespace, "coordination.k8s.io", "v1", "leases"},
		{"endpointslices", c.Namespace, "discovery.k8s.io", "v1", "endpointslices"},
		{"namespaces", "", "", "v1", "namespaces"},
		{"gatewayclasses", "", gatewayGroup, "v1", "gatewayclasses"},
		{"gateways", "", gatewayGroup, "v1", "gateways"},
		{"httproutes", "", gatewayGroup, "v1", "httproutes"},
		{"grpcroutes", "", gatewayGroup, "v1", "grpcroutes"},
		{"tcproutes", "", gatewayGroup, "v1", "tcproutes"},
		{"tlsroutes", "", gatewayGroup, "v1", "tlsroutes"},
		{"referencegrants", "", gatewayGroup, "v1", "referencegrants"},
		{"trafficpolicies", "", "warren.dev", "v1alpha1", "trafficpolicies"},
		{"requestauthentications", "", "warren.dev", "v1alpha1", "requestauthentications"},
		{"authorizationpolicies", "", "warren.dev", "v1alpha1", "authorizationpolicies"},
		{"peerauthentications", "", "warren.dev", "v1alpha1", "peerauthentications"},
	} {
		gvr := schema.GroupVersionResource{Group: one.group, Version: one.version, Resource: one.resource}
		list, err := c.Dynamic.Resource(gvr).Namespace(one.namespace).List(ctx, metav1.ListOptions{Limit: 5000})
		if apierrors.IsNotFound(err) && one.group != "" {
			continue // a kind that this cluster does not have
		}
		if err != nil {
			give(one.name+".yaml", nil, err)
			continue
		}
		for i := range list.Items {
			list.Items[i].SetManagedFields(nil)
		}
		giveYAML(give, one.name+".yaml", list, nil)
	}
	c.collectNodes(ctx, give)
	c.collectLogs(ctx, since, give)
}

// collectNodes gives what a node says of its versions, and nothing else of it.
func (c *Cluster) collectNodes(ctx context.Context, give func(string, []byte, error)) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	info := make(map[string]corev1.NodeSystemInfo)
	if err == nil {
		for _, n := range nodes.Items {
			one := n.Status.NodeInfo
			one.MachineID, one.SystemUUID, one.BootID = "", "", ""
			info[n.Name] = one
		}
	}
	giveYAML(give, "nodes.yaml", info, err)
}

func (c *Cluster) collectLogs(ctx context.Context, since time.Duration, give func(string, []byte, error)) {
	pods, err := c.Client.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		give("logs", nil, err)
		return
	}
	waypoints, err := c.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{LabelSelector: gatewayClass + "=" + WaypointClass})
	if err != nil {
		give("logs of waypoints", nil, err)
		waypoints = &corev1.PodList{}
	}
	seconds, read := int64(since.Seconds()), 0
	for _, p := range append(pods.Items, waypoints.Items...) {
		for _, s := range p.Status.ContainerStatuses {
			if read++; read > maxLogs {
				give("logs", nil, fmt.Errorf("only those of %d containers were read", maxLogs))
				return
			}
			c.collectLog(ctx, p, &corev1.PodLogOptions{Container: s.Name, SinceSeconds: &seconds, Timestamps: true}, give)
			if s.RestartCount > 0 {
				c.collectLog(ctx, p, &corev1.PodLogOptions{Container: s.Name, Previous: true, Timestamps: true}, give)
			}
		}
	}
}

func (c *Cluster) collectLog(ctx context.Context, p corev1.Pod, o *corev1.PodLogOptions, give func(string, []byte, error)) {
	name := "logs/" + p.Name + "." + o.Container
	if p.Namespace != c.Namespace {
		name = "logs/" + p.Namespace + "." + p.Name + "." + o.Container
	}
	if o.Previous {
		name += ".previous"
	}
	name += ".log"
	limit := int64(maxLog)
	o.LimitBytes = &limit
	r, err := c.Client.CoreV1().Pods(p.Namespace).GetLogs(p.Name, o).Stream(ctx)
	if err != nil {
		give(name, nil, err)
		return
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxLog))
	give(name, raw, err)
}

func giveYAML(give func(string, []byte, error), name string, v any, err error) {
	var raw []byte
	if err == nil {
		raw, err = json.Marshal(v)
	}
	if err == nil {
		raw, err = yaml.JSONToYAML(raw)
	}
	give(name, raw, err)
}

// Redact replaces what may be secret in any text: private keys, JSON web tokens, bearer and basic credentials, passwords
// in URLs, and values that are called token, password or secret.
func Redact(text []byte) []byte {
	for _, one := range []struct {
		secret *regexp.Regexp
		by     string
	}{
		{regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)`), "(private key removed)"},
		{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), "(token removed)"},
		{regexp.MustCompile(`(?i)\b(bearer|basic) [A-Za-z0-9._~+/=-]{8,}`), "$1 (removed)"},
		{regexp.MustCompile(`(://[^/\s:@]+):[^/\s@]+@`), "$1:(removed)@"},
		{regexp.MustCompile(`(?i)\b((?:[a-z0-9_-]*[_-])?(?:token|password|passwd|secret|api[_-]?key)"?\s*[=:]\s*"?)[^\s"',;{}\[\]]{6,}`), "$1(removed)"},
	} {
		text = one.secret.ReplaceAll(text, []byte(one.by))
	}
	return text
}
