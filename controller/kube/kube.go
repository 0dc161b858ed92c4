// Package kube is what a controller gets from Kubernetes: what the mesh should be, who leads, the CA's key, and a place
// where agents find the leader.
//
//	source     the API server's objects → manifest objects, collected and handed on whole
//	convert    the few fields of each kind that the mesh needs
//	lead       one of several replicas serves, by a Lease
//	material   the CA's Secret, and the roots that agents begin with
//	leave      taking the mesh away
//	announce   the EndpointSlice through which agents reach the leader
//
// Nothing here decides anything about the mesh: that is controller/compile's business. When the API server is away,
// what was seen last stays.
package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Names of the objects in the controller's own namespace.
const (
	Lease       = "warren-controller"
	Service     = "warren-controller"
	LeaderSlice = "warren-controller-leader"
	CASecret    = "warren-ca"
	RootsConfig = "warren-roots"
	MeshConfig  = "warren-mesh"
	// BundleKey is the key of RootsConfig that has the roots, PEM.
	BundleKey = "bundle.pem"
)

// Config says who this replica is. Namespace, Pod and Log must be set.
type Config struct {
	// Kubeconfig is a file; empty uses the pod's own service account.
	Kubeconfig string
	Namespace  string
	// Pod is this replica's name; PodIPs are its addresses.
	Pod    string
	PodIPs []string
	// Settle is how long changes are collected before they are handed on. The default is 20 ms; it grows with the time
	// that taking them in takes.
	Settle time.Duration
	Log    *slog.Logger
}

// Cluster is one cluster's API server, as one replica of the controller sees it.
type Cluster struct {
	cfg     Config
	client  kubernetes.Interface
	dynamic dynamic.Interface
	source  *source
	mesh    meshConfig
}

// qps bounds requests to the API server; watches count once.
const qps, burst = 50, 100

// Connect makes clients. Nothing is asked before Run.
func Connect(cfg Config) (*Cluster, error) {
	if cfg.Namespace == "" || cfg.Pod == "" || cfg.Log == nil {
		return nil, errors.New("controller on Kubernetes: its namespace, its pod's name and a log must be given")
	}
	if cfg.Settle <= 0 {
		cfg.Settle = 20 * time.Millisecond
	}
	rc, err := restConfig(cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("controller on Kubernetes: %w", err)
	}
	rc.QPS, rc.Burst, rc.UserAgent = qps, burst, "warren-controller"
	client, err := kubernetes.NewForConfig(protobufFor(rc))
	if err != nil {
		return nil, fmt.Errorf("controller on Kubernetes: %w", err)
	}
	dyn, err := dynamic.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("controller on Kubernetes: %w", err)
	}
	c := &Cluster{cfg: cfg, client: client, dynamic: dyn}
	c.source = newSource(c)
	c.mesh.changed = c.source.signal
	c.source.reflectors = append(c.source.reflectors, c.mesh.follow(c))
	return c, nil
}

// Client is for what else the controller asks of the API server: reviews of tokens.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Dynamic is for kinds that may not be there: those of the Gateway API.
func (c *Cluster) Dynamic() dynamic.Interface { return c.dynamic }

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	return rest.InClusterConfig()
}

// protobufFor makes the built-in kinds travel in the smaller of the two encodings.
func protobufFor(rc *rest.Config) *rest.Config {
	out := rest.CopyConfig(rc)
	out.ContentType = "application/vnd.kubernetes.protobuf"
	out.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return out
}
