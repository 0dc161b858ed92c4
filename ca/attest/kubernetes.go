package attest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the API server says beside the user's name about a service account's token that is bound to a pod.
const (
	extraPodName    = "authentication.kubernetes.io/pod-name"
	extraPodUID     = "authentication.kubernetes.io/pod-uid"
	extraNodeName   = "authentication.kubernetes.io/node-name"
	extraCredential = "authentication.kubernetes.io/credential-id"
)

// TokenReviewer asks the API server about a token: its client's TokenReviews.
type TokenReviewer interface {
	Create(ctx context.Context, review *authv1.TokenReview, opts metav1.CreateOptions) (*authv1.TokenReview, error)
}

// KubernetesConfig says whose tokens prove to be a node. All fields but Now must be set.
type KubernetesConfig struct {
	Reviews TokenReviewer
	// Audience is whom the tokens must be made for: a token for the API server is no proof here, nor ours one there.
	Audience string
	// ServiceAccount is the agents', "<namespace>/<name>".
	ServiceAccount string
	// WaypointAudience is whom waypoints' tokens must be made for.
	WaypointAudience string
	// NodeOf returns the node that the agent's pod is bound to, by the pod's uid, as the API server says; false if there
	// is no such pod.
	NodeOf func(podUID string) (node string, ok bool)
	Now    func() time.Time // time.Now by default
}

// Kubernetes attests nodes by the projected token of their agent's pod. The token is bound to the pod, so the API server
// refuses it once the pod is gone; it names the pod's node, so it is of no use to another node; it is accepted once.
type Kubernetes struct {
	cfg KubernetesConfig

	mu   sync.Mutex
	used map[string]time.Time // credential → when it may be forgotten
}

const (
	// usedFor is longer than an agent's token lives: 10 minutes by the chart, and up to an hour if an API server extends.
	usedFor = 65 * time.Minute
	// maxUsed bounds what is remembered. Only tokens that the API server vouches for get there.
	maxUsed = 100_000
)

// NewKubernetes returns the attestor.
func NewKubernetes(cfg KubernetesConfig) *Kubernetes {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Kubernetes{cfg: cfg, used: map[string]time.Time{}}
}

// Attest implements NodeAttestor: proof is the token.
func (k *Kubernetes) Attest(ctx context.Context, node, proof string) error {
	return k.review(ctx, proof, k.cfg.Audience, func(s *authv1.TokenReviewStatus) error { return k.check(node, s) })
}

// AttestWaypoint implements WaypointAttestor: proof is the token of the waypoint's own pod and service account.
func (k *Kubernetes) AttestWaypoint(ctx context.Context, w Workload, proof string) error {
	return k.review(ctx, proof, k.cfg.WaypointAudience, func(s *authv1.TokenReviewStatus) error {
		if err := checkUser(s, k.cfg.WaypointAudience, w.Namespace, w.ServiceAccount); err != nil {
			return err
		}
		if uid := one(s.User.Extra, extraPodUID); uid != w.UID {
			return fmt.Errorf("the token is bound to the pod with uid %q, not to %q", uid, w.UID)
		}
		return nil
	})
}

// review asks the API server about a token that nobody has used yet, and lets check judge what it says.
func (k *Kubernetes) review(ctx context.Context, proof, audience string, check func(*authv1.TokenReviewStatus) error) error {
	if proof == "" { // an API server calls that a bad request, which is no answer about a token
		return fmt.Errorf("%w: there is no token", ErrRefused)
	}
	review, err := k.cfg.Reviews.Create(ctx, &authv1.TokenReview{
		Spec: authv1.TokenReviewSpec{Token: proof, Audiences: []string{audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("ask the API server about a token: %w", err)
	}
	if err := check(&review.Status); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if !k.use(credential(&review.Status.User)) {
		return fmt.Errorf("%w: this token was accepted before; the kubelet writes another one within minutes", ErrRefused)
	}
	return nil
}

// checkUser checks whose token it is, and for whom it was made.
func checkUser(s *authv1.TokenReviewStatus, audience, namespace, account string) error {
	switch {
	case s.Error != "":
		return fmt.Errorf("the API server refuses the token: %s", s.Error)
	case !s.Authenticated:
		return fmt.Errorf("the API server does not know the token")
	case !slices.Contains(s.Audiences, audience):
		return fmt.Errorf("the token is for %q, not for %q", s.Audiences, audience)
	}
	if want := "system:serviceaccount:" + namespace + ":" + account; s.User.Username != want {
		return fmt.Errorf("the token is of %q, not of %q", s.User.Username, want)
	}
	return nil
}

func (k *Kubernetes) check(node string, s *authv1.TokenReviewStatus) error {
	namespace, name, _ := strings.Cut(k.cfg.ServiceAccount, "/")
	if err := checkUser(s, k.cfg.Audience, namespace, name); err != nil {
		return err
	}
	uid := one(s.User.Extra, extraPodUID)
	if uid == "" {
		return fmt.Errorf("the token is not bound to a pod: it must be a projected one")
	}
	bound, ok := k.cfg.NodeOf(uid)
	if !ok {
		return fmt.Errorf("the token's pod %s (uid %s) is not there", one(s.User.Extra, extraPodName), uid)
	}
	if bound != node {
		return fmt.Errorf("the token's pod runs on node %q, not on %q", bound, node)
	}
	// API servers from 1.30 on say it in the token too.
	if said := one(s.User.Extra, extraNodeName); said != "" && said != node {
		return fmt.Errorf("the token is of node %q, not of %q", said, node)
	}
	return nil
}

func one(extra map[string]authv1.ExtraValue, key string) string {
	if v := extra[key]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// credential names a token. API servers before 1.30 do not; there a pod can attest until it is gone.
func credential(u *authv1.UserInfo) string { return one(u.Extra, extraCredential) }

// use tells whether a token may be used, and uses it up.
func (k *Kubernetes) use(id string) bool {
	if id == "" {
		return true
	}
	now := k.cfg.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if until, ok := k.used[id]; ok && now.Before(until) {
		return false
	}
	if len(k.used) >= maxUsed {
		for id, until := range k.used {
			if !now.Before(until) {
				delete(k.used, id)
			}
		}
	}
	if len(k.used) >= maxUsed {
		return false
	}
	k.used[id] = now.Add(usedFor)
	return true
}
