package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/ca/rotation"
)

// Material is the CA's files, as the Secret had them.
type Material struct {
	CertFile, KeyFile string
	RootsFile         string // empty if there are no more roots
	secret            map[string][]byte
}

// ErrCAChanged is returned by Tend if the CA's Secret is another one now: the controller begins anew with it.
var ErrCAChanged = errors.New("the Secret with the CA has changed")

// CA returns the CA's files, which it writes to dir; the Secret is made by `create` if it is not there. A Secret that
// has no key yet is waited for: cert-manager makes it before it fills it.
func (c *Cluster) CA(ctx context.Context, dir string, create func() (cert, key []byte, err error)) (Material, error) {
	for said := false; ; said = true {
		secret, err := c.client.CoreV1().Secrets(c.cfg.Namespace).Get(ctx, CASecret, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			secret, err = c.createCA(ctx, create)
		}
		if err != nil {
			return Material{}, fmt.Errorf("read Secret %s/%s: %w", c.cfg.Namespace, CASecret, err)
		}
		if len(secret.Data[rotation.Cert]) > 0 && len(secret.Data[rotation.Key]) > 0 {
			return writeMaterial(dir, secret.Data)
		}
		if !said {
			c.cfg.Log.Warn("waiting for a CA: the Secret has no tls.crt and tls.key yet", "secret", c.cfg.Namespace+"/"+CASecret)
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return Material{}, err
		}
	}
}

func (c *Cluster) createCA(ctx context.Context, create func() (cert, key []byte, err error)) (*corev1.Secret, error) {
	cert, key, err := create()
	if err != nil {
		return nil, err
	}
	secret, err := c.client.CoreV1().Secrets(c.cfg.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: CASecret, Labels: partOf()},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{rotation.Cert: cert, rotation.Key: key},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return c.client.CoreV1().Secrets(c.cfg.Namespace).Get(ctx, CASecret, metav1.GetOptions{})
	}
	return secret, err
}

func partOf() map[string]string { return map[string]string{"app.kubernetes.io/part-of": "warren"} }

// writeMaterial writes files that only their owner reads, to a file system in memory.
func writeMaterial(dir string, data map[string][]byte) (Material, error) {
	m := Material{CertFile: filepath.Join(dir, rotation.Cert), KeyFile: filepath.Join(dir, rotation.Key), secret: data}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Material{}, fmt.Errorf("write the CA's files: %w", err)
	}
	files := map[string]string{rotation.Cert: m.CertFile, rotation.Key: m.KeyFile}
	if len(bytes.TrimSpace(data[rotation.Roots])) > 0 {
		m.RootsFile = filepath.Join(dir, rotation.Roots)
		files[rotation.Roots] = m.RootsFile
	}
	for key, path := range files {
		if err := os.WriteFile(path, data[key], 0o600); err != nil {
			return Material{}, fmt.Errorf("write the CA's files: %w", err)
		}
	}
	return m, nil
}

// materialChanged tells whether the Secret says something else than the material in use.
func (c *Cluster) materialChanged(ctx context.Context, m Material) (bool, error) {
	secret, err := c.client.CoreV1().Secrets(c.cfg.Namespace).Get(ctx, CASecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil // it was deleted: what is in use goes on, and the next leader makes another
	}
	if err != nil {
		return false, err
	}
	for _, key := range []string{rotation.Cert, rotation.Key, rotation.Roots} {
		if !bytes.Equal(secret.Data[key], m.secret[key]) {
			return len(secret.Data[rotation.Cert]) > 0 && len(secret.Data[rotation.Key]) > 0, nil
		}
	}
	return false, nil
}
