package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/api/cav1"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

const audience = "warren-ca"

// proofs: what a node has lets nobody be another node, and what a pod has lets it be none. Every refusal is answered
// alike, and counted.
func (l life) proofs() {
	leader := l.leader(20 * time.Second)
	stranger := l.ca(leader, nil)
	agent := l.podOn(mesh.Namespace, agents, "node-a")
	attest := func(node, token string) error {
		_, err := stranger.AttestNode(context.Background(), &cav1.AttestNodeRequest{Node: node, JoinToken: token, Csr: l.csr()})
		return err
	}
	good := l.token(agent, audience, true)
	for _, row := range []struct{ name, node, token string }{
		{"node-a's token for node-b", "node-b", good},
		{"what is on node-a's disk, for node-b", "node-b", l.mountedToken(agent, "kubernetes.io~projected/token/token")},
		{"a pod's own token", "node-a", l.ordinaryToken()},
		{"an agent's token for the API server", "node-a", l.token(agent, "", true)},
		{"the agents' account, bound to no pod", "node-a", l.token(agent, audience, false)},
		{"bound to a pod that is gone", "node-a", l.tokenOfGone()},
		{"signed by somebody else", "node-a", l.forged(good)},
		{"without a signature", "node-a", good[:strings.LastIndex(good, ".")+1]},
		{"no token", "node-a", ""},
	} {
		l.refusedAs(leader, row.name, "attest", "attestation", func() error { return attest(row.node, row.token) })
	}
	if err := attest("node-a", good); err != nil {
		l.t.Errorf("node-a's token for node-a, which the others did not use up: %v", err)
	}
	l.refusedAs(leader, "a replayed token", "attest", "attestation", func() error { return attest("node-a", good) })
	l.signing(leader)
}

// signing: a node's certificate is good for the pods of that node.
func (l life) signing(leader corev1.Pod) {
	node := l.ca(leader, l.nodeSVID("node-a"))
	sign := func(pod corev1.Pod) func() error {
		return func() error {
			_, err := node.SignWorkload(context.Background(), &cav1.SignWorkloadRequest{WorkloadUid: string(pod.UID), Csr: l.csr()})
			return err
		}
	}
	for _, row := range []struct {
		name, reason string
		pod          corev1.Pod
	}{
		{"a pod of node-b", "other_node", l.podOn(inMesh, "app=asker", "node-b")},
		{"a pod outside the mesh", "not_enrolled", l.podOn(outMesh, "app=asker", "node-a")},
		{"a pod that is not", "unknown_workload", corev1.Pod{}},
	} {
		l.refusedAs(leader, "node-a asks for "+row.name, "workload", row.reason, sign(row.pod))
	}
	if err := sign(l.podOn(inMesh, "app=asker", "node-a"))(); err != nil {
		l.t.Errorf("node-a asks for a pod of its own: %v", err)
	}
	reply, err := node.RenewNode(context.Background(), &cav1.RenewNodeRequest{Csr: l.csr()})
	if err != nil || reply.SpiffeId != "spiffe://cluster.local/node/node-a" {
		l.t.Errorf("node-a renews its own: %v %v", reply.GetSpiffeId(), err)
	}
	_, err = l.ca(leader, nil).SignWorkload(context.Background(), &cav1.SignWorkloadRequest{
		WorkloadUid: string(l.podOn(inMesh, "app=asker", "node-a").UID), Csr: l.csr(),
	})
	if status.Code(err) != codes.PermissionDenied {
		l.t.Errorf("somebody without a certificate asks for a pod: %v", err)
	}
}

// refusedAs calls what must be refused, with the one answer that there is and counted once under its reason.
func (l life) refusedAs(leader corev1.Pod, name, kind, reason string, call func() error) {
	l.t.Helper()
	before := l.refusals(leader, kind, reason)
	err := call()
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || s.Message() != "not allowed" {
		l.t.Errorf("%s: answered %v", name, err)
	}
	if n := l.refusals(leader, kind, reason) - before; n != 1 {
		l.t.Errorf("%s: counted %d times as %s %s", name, n, kind, reason)
	}
}

// refusals is a counter of the CA.
func (l life) refusals(leader corev1.Pod, kind, reason string) int {
	l.t.Helper()
	text, err := l.metrics(leader)
	if err != nil {
		l.t.Fatal(err)
	}
	line := regexp.MustCompile(`warren_ca_refused_total\{kind="` + kind + `",reason="` + reason + `"\} (\d+)`)
	found := line.FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	n, _ := strconv.Atoi(found[1])
	return n
}

// ca is the CA's service on a replica, for whoever has this SVID, or none.
func (l life) ca(replica corev1.Pod, svid *identity.SVID) cav1.CAClient {
	l.t.Helper()
	rc, err := l.RestConfig()
	if err != nil {
		l.t.Fatal(err)
	}
	roots := l.roots()
	config := identity.NodeClientConfig(func() (*identity.SVID, error) {
		if svid == nil {
			return nil, identity.ErrNoSVID
		}
		return svid, nil
	}, func() *identity.Bundle { return roots }, "cluster.local")
	address := net.JoinHostPort(replica.Status.PodIP, "15012")
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return rc.Dial(ctx, "tcp", address) }))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return cav1.NewCAClient(conn)
}

// roots are those that agents begin with.
func (l life) roots() *identity.Bundle {
	l.t.Helper()
	config, err := l.Client.CoreV1().ConfigMaps(mesh.Namespace).Get(context.Background(), "warren-roots", metav1.GetOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(config.Data["bundle.pem"]))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		l.t.Fatal(err)
	}
	bundle, err := identity.NewBundle(map[string][]*x509.Certificate{"cluster.local": {root}})
	if err != nil {
		l.t.Fatal(err)
	}
	return bundle
}

// nodeSVID is what a thief of a node finds in the agent's state.
func (l life) nodeSVID(node string) *identity.SVID {
	l.t.Helper()
	id := "spiffe://cluster.local/node/" + node
	file := fmt.Sprintf("/run/warren/agent/svids/%x.svid.pem", sha256.Sum256([]byte(id)))
	raw, err := l.Node(node).Exec(context.Background(), "cat", file)
	if err != nil {
		l.t.Fatal(err)
	}
	var chain [][]byte
	var key crypto.Signer
	for block, rest := pem.Decode([]byte(raw)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			chain = append(chain, block.Bytes)
			continue
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			l.t.Fatal(err)
		}
		key = parsed.(crypto.Signer)
	}
	svid, err := identity.NewSVID(chain, key)
	if err != nil || svid.ID != id {
		l.t.Fatalf("the SVID in %s of %s: %v", file, node, err)
	}
	return svid
}

func (l life) csr() []byte {
	l.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		l.t.Fatal(err)
	}
	return der
}

// token makes a token of a pod's service account, as the kubelet does, for an audience or, if that is "", for the API
// server; bound to the pod or not.
func (l life) token(p corev1.Pod, forWhom string, bound bool) string {
	l.t.Helper()
	req := &authv1.TokenRequest{}
	if forWhom != "" {
		req.Spec.Audiences = []string{forWhom}
	}
	if bound {
		req.Spec.BoundObjectRef = &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}
	}
	accounts := l.Client.CoreV1().ServiceAccounts(p.Namespace)
	reply, err := accounts.CreateToken(context.Background(), p.Spec.ServiceAccountName, req, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return reply.Status.Token
}

// mountedToken reads a token of a pod from its node's disk.
func (l life) mountedToken(p corev1.Pod, file string) string {
	l.t.Helper()
	path := fmt.Sprintf("/var/lib/kubelet/pods/%s/volumes/%s", p.UID, file)
	out, err := l.Node(p.Spec.NodeName).Exec(context.Background(), "cat", path)
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// ordinaryToken is what every app finds at /var/run/secrets/kubernetes.io/serviceaccount/token.
func (l life) ordinaryToken() string {
	l.t.Helper()
	p := l.podOn(inMesh, "app=asker", "node-a")
	for _, v := range p.Spec.Volumes {
		if strings.HasPrefix(v.Name, "kube-api-access-") {
			return l.mountedToken(p, "kubernetes.io~projected/"+v.Name+"/token")
		}
	}
	l.t.Fatalf("%s has no token", p.Name)
	return ""
}

// tokenOfGone is a token that was good: its pod, which was an agent's to look at, is gone.
func (l life) tokenOfGone() string {
	l.t.Helper()
	l.Apply(mesh.Namespace, `{apiVersion: v1, kind: Pod, metadata: {name: gone}, spec: {serviceAccountName: warren-agent,
		terminationGracePeriodSeconds: 0, nodeSelector: {kubernetes.io/hostname: node-a},
		containers: [{name: app, image: "localhost/sample:1", imagePullPolicy: Never, args: [http]}]}}`)
	p := l.Pod(mesh.Namespace, "gone")
	token := l.token(p, audience, true)
	l.Kubectl("delete", "pod", "gone", "--namespace", mesh.Namespace, "--timeout=30s")
	return token
}

// forged is a token that says the same under another key.
func (l life) forged(token string) string {
	l.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		l.t.Fatal(err)
	}
	said := token[:strings.LastIndex(token, ".")]
	sum := sha256.Sum256([]byte(said))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		l.t.Fatal(err)
	}
	return said + "." + base64.RawURLEncoding.EncodeToString(signature)
}
