package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// pki is the cluster's own certificate authority, which signs everything that its components show each other.
type pki struct {
	dir    string
	server string // the API server's URL
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	pem    []byte
}

// subject is who a certificate is for. Kubernetes reads the user from the name and groups from the organizations.
type subject struct {
	user  string
	group string
	dns   []string
	addrs []netip.Addr
}

// writePKI writes keys, certificates and kubeconfigs of all components into pki/.
func (c *Cluster) writePKI() error {
	p, err := newPKI(c.path("pki"), fmt.Sprintf("https://%s:%d", lanAddrs(1)[0].Addr(), apiPort))
	if err != nil {
		return err
	}
	api := subject{user: "kube-apiserver", dns: []string{
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}, addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(apiService4), netip.MustParseAddr(apiService6)}}
	for _, a := range lanAddrs(1) {
		api.addrs = append(api.addrs, a.Addr())
	}
	if err := p.writePair("apiserver", api); err != nil {
		return err
	}
	if err := p.writePair("kubelet-client", subject{user: "kube-apiserver-kubelet-client", group: "system:masters"}); err != nil {
		return err
	}
	if err := p.writeServiceAccountKey(); err != nil {
		return err
	}
	users := map[string]subject{
		"admin":      {user: "admin", group: "system:masters"},
		"kcm":        {user: "system:kube-controller-manager"},
		"scheduler":  {user: "system:kube-scheduler"},
		"kube-proxy": {user: "system:kube-proxy"},
	}
	for _, n := range c.nodes {
		s := subject{user: "system:node:" + n.Name, group: "system:nodes", dns: []string{n.Name}, addrs: n.Addrs()}
		if err := p.writePair(n.Name, s); err != nil {
			return err
		}
		users[n.Name] = s
	}
	for name, s := range users {
		if err := p.writeKubeconfig(name, s); err != nil {
			return err
		}
	}
	return nil
}

func newPKI(dir, server string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e-ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	p := &pki{dir: dir, server: server, cert: cert, key: key, pem: encode("CERTIFICATE", der)}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := p.write("ca.crt", p.pem); err != nil {
		return nil, err
	}
	return p, p.write("ca.key", keyPEM)
}

const lifetime = 30 * 24 * time.Hour

// issue makes a key and its certificate.
func (p *pki) issue(s subject) (cert, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: s.user},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime), DNSNames: s.dns,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if s.group != "" {
		template.Subject.Organization = []string{s.group}
	}
	for _, a := range s.addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, &key.PublicKey, p.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	return encode("CERTIFICATE", der), keyPEM, err
}

func (p *pki) writePair(name string, s subject) error {
	cert, key, err := p.issue(s)
	if err != nil {
		return err
	}
	if err := p.write(name+".crt", cert); err != nil {
		return err
	}
	return p.write(name+".key", key)
}

func (p *pki) writeServiceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := p.write("sa.key", private); err != nil {
		return err
	}
	return p.write("sa.pub", encode("PUBLIC KEY", public))
}

func (p *pki) writeKubeconfig(name string, s subject) error {
	cert, key, err := p.issue(s)
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["e2e"] = &clientcmdapi.Cluster{Server: p.server, CertificateAuthorityData: p.pem}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: name}
	config.CurrentContext = "e2e"
	return clientcmd.WriteToFile(*config, filepath.Join(p.dir, name+".kubeconfig"))
}

func (p *pki) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(p.dir, name), content, 0o600)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encode("PRIVATE KEY", der), nil
}
