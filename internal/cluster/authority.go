package cluster

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrForeignCA means that somebody else looks after the certificate authority.
var ErrForeignCA = errors.New("cert-manager looks after the CA: renew it there")

// Authority is the Secret with the certificate authority.
type Authority struct{ secret *corev1.Secret }

// Authority reads the Secret. Returns ErrForeignCA if it is not ours to change.
func (c *Cluster) Authority(ctx context.Context) (*Authority, error) {
	secret, err := c.Client.CoreV1().Secrets(c.Namespace).Get(ctx, caSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: there is no Secret %s/%s", ErrNotInstalled, c.Namespace, caSecret)
	}
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	if _, managed := secret.Annotations["cert-manager.io/certificate-name"]; managed {
		return nil, ErrForeignCA
	}
	return &Authority{secret}, nil
}

// Data is what the Secret says. Callers must not change it.
func (a *Authority) Data() map[string][]byte { return a.secret.Data }

// Write replaces what the Secret says. Returns an error if somebody else changed it since it was read.
func (c *Cluster) Write(ctx context.Context, a *Authority, data map[string][]byte) (*Authority, error) {
	next := a.secret.DeepCopy()
	next.Data = data
	next, err := c.Client.CoreV1().Secrets(c.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("write the CA: %w", err)
	}
	return &Authority{next}, nil
}
