package attest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reviews stands for the API server: what it says about a token is the token's entry. The real one is asked in
// test/e2e.
type reviews struct {
	answers map[string]authv1.TokenReviewStatus
	err     error

	mu    sync.Mutex
	asked []authv1.TokenReviewSpec
}

func (r *reviews) Create(_ context.Context, q *authv1.TokenReview, _ metav1.CreateOptions) (*authv1.TokenReview, error) {
	r.mu.Lock()
	r.asked = append(r.asked, q.Spec)
	r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	return &authv1.TokenReview{Spec: q.Spec, Status: r.answers[q.Spec.Token]}, nil
}

// reviewed is what an API server says about the token of the agent on n1, but for what edit changes.
func reviewed(edit func(*authv1.TokenReviewStatus)) authv1.TokenReviewStatus {
	s := authv1.TokenReviewStatus{
		Authenticated: true, Audiences: []string{"warren-ca"},
		User: authv1.UserInfo{
			Username: "system:serviceaccount:warren-system:warren-agent",
			Extra: map[string]authv1.ExtraValue{
				extraPodName: {"warren-agent-x"}, extraPodUID: {"pod-1"}, extraNodeName: {"n1"}, extraCredential: {"JTI=1"},
			},
		},
	}
	if edit != nil {
		edit(&s)
	}
	return s
}

// attestor knows that pod-1 runs on n1 and pod-2 on n2; token "good" is that of pod-1's agent.
func attestor(r *reviews, now func() time.Time) *Kubernetes {
	return NewKubernetes(KubernetesConfig{
		Reviews: r, Audience: "warren-ca", ServiceAccount: "warren-system/warren-agent", Now: now,
		NodeOf: func(uid string) (string, bool) {
			node, ok := map[string]string{"pod-1": "n1", "pod-2": "n2"}[uid]
			return node, ok
		},
	})
}

// TestPodTokenProvesItsNodeOnly is a row for each way in which a token is not the one of that node's agent. Each is
// refused for its own reason, and none uses the good token up.
func TestPodTokenProvesItsNodeOnly(t *testing.T) {
	user := func(name string) func(*authv1.TokenReviewStatus) {
		return func(s *authv1.TokenReviewStatus) { s.User.Username = name }
	}
	extra := func(key string, values ...string) func(*authv1.TokenReviewStatus) {
		return func(s *authv1.TokenReviewStatus) { s.User.Extra[key] = values }
	}
	rows := []struct {
		name, node string
		edit       func(*authv1.TokenReviewStatus)
		reason     string
	}{
		{"another node", "n2", nil, `runs on node "n1", not on "n2"`},
		{"no node", "", nil, `not on ""`},
		{"not authenticated", "n1", func(s *authv1.TokenReviewStatus) { s.Authenticated = false }, "does not know the token"},
		{"an error", "n1", func(s *authv1.TokenReviewStatus) { s.Error = "token has expired" }, "token has expired"},
		{"nothing said", "n1", func(s *authv1.TokenReviewStatus) { *s = authv1.TokenReviewStatus{} }, "does not know the token"},
		{"another audience", "n1", func(s *authv1.TokenReviewStatus) { s.Audiences = []string{"https://api"} }, "not for"},
		{"an API server without audiences", "n1", func(s *authv1.TokenReviewStatus) { s.Audiences = nil }, "not for"},
		{"another service account", "n1", user("system:serviceaccount:warren-system:warren-controller"), "not of"},
		{"another namespace's", "n1", user("system:serviceaccount:shop:warren-agent"), "not of"},
		{"a user", "n1", user("warren-system:warren-agent"), "not of"},
		{"not bound to a pod", "n1", func(s *authv1.TokenReviewStatus) { delete(s.User.Extra, extraPodUID) }, "not bound to a pod"},
		{"bound to two pods", "n1", extra(extraPodUID, "pod-1", "pod-2"), "not bound to a pod"},
		{"a pod that is gone", "n1", extra(extraPodUID, "pod-9"), "is not there"},
		{"a pod of another node", "n1", extra(extraPodUID, "pod-2"), `runs on node "n2", not on "n1"`},
		{"node by the token, pod elsewhere", "n1", extra(extraNodeName, "n2"), `the token is of node "n2"`},
	}
	r := &reviews{answers: map[string]authv1.TokenReviewStatus{"good": reviewed(nil)}}
	for i, row := range rows {
		r.answers[fmt.Sprint("bad-", i)] = reviewed(row.edit)
	}
	k := attestor(r, nil)
	for i, row := range rows {
		err := k.Attest(t.Context(), row.node, fmt.Sprint("bad-", i))
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), row.reason) {
			t.Errorf("%s: got %v, want a refusal with %q", row.name, err, row.reason)
		}
	}
	r.err = errors.New("token is required")
	if err := k.Attest(t.Context(), "n1", ""); !errors.Is(err, ErrRefused) {
		t.Errorf("no token: %v", err)
	}
	r.err = nil
	if err := k.Attest(t.Context(), "n1", "good"); err != nil {
		t.Errorf("the good token, after those that name the same credential were refused: %v", err)
	}
	for _, q := range r.asked {
		if len(q.Audiences) != 1 || q.Audiences[0] != "warren-ca" {
			t.Fatalf("asked about audiences %q: a token for another would be authenticated", q.Audiences)
		}
	}
}

// TestPodTokenIsGoodOnce, whoever brings it and however many at once, for longer than it lives.
func TestPodTokenIsGoodOnce(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := &reviews{answers: map[string]authv1.TokenReviewStatus{"good": reviewed(nil)}}
	k := attestor(r, func() time.Time { return now })
	var accepted atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			switch err := k.Attest(context.Background(), "n1", "good"); {
			case err == nil:
				accepted.Add(1)
			case !errors.Is(err, ErrRefused):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := accepted.Load(); n != 1 {
		t.Fatalf("of 20 uses at once %d were accepted", n)
	}
	now = now.Add(time.Hour) // as long as an API server lets a token live that it extends
	if err := k.Attest(t.Context(), "n1", "good"); !errors.Is(err, ErrRefused) {
		t.Errorf("an hour later: %v", err)
	}
	r.answers["next"] = reviewed(func(s *authv1.TokenReviewStatus) { s.User.Extra[extraCredential] = authv1.ExtraValue{"JTI=2"} })
	if err := k.Attest(t.Context(), "n1", "next"); err != nil {
		t.Errorf("the token that the kubelet wrote next: %v", err)
	}
}

// TestTokenWithoutANameCanAttestAgain: API servers before 1.30 name no token; a pod attests until it is gone.
func TestTokenWithoutANameCanAttestAgain(t *testing.T) {
	r := &reviews{answers: map[string]authv1.TokenReviewStatus{"old": reviewed(func(s *authv1.TokenReviewStatus) {
		delete(s.User.Extra, extraCredential)
		delete(s.User.Extra, extraNodeName)
	})}}
	k := attestor(r, nil)
	for range 2 {
		if err := k.Attest(t.Context(), "n1", "old"); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Attest(t.Context(), "n2", "old"); !errors.Is(err, ErrRefused) {
		t.Errorf("on another node: %v", err)
	}
}

// TestAPIServerAwayIsNoRefusal: the agent is told to come again, and nothing is remembered about its token.
func TestAPIServerAwayIsNoRefusal(t *testing.T) {
	r := &reviews{err: errors.New("connection refused"), answers: map[string]authv1.TokenReviewStatus{"good": reviewed(nil)}}
	k := attestor(r, nil)
	if err := k.Attest(t.Context(), "n1", "good"); err == nil || errors.Is(err, ErrRefused) {
		t.Fatalf("without an API server: %v", err)
	}
	r.err = nil
	if err := k.Attest(t.Context(), "n1", "good"); err != nil {
		t.Error(err)
	}
}

// TestUsedTokensAreBounded: what is remembered goes when its time is over; what is full refuses instead of forgetting.
func TestUsedTokensAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	k := attestor(&reviews{}, func() time.Time { return now })
	for i := range maxUsed {
		if !k.use(fmt.Sprint(i)) {
			t.Fatalf("token %d was refused", i)
		}
	}
	if k.use("one more") {
		t.Error("one more than there is room for was accepted")
	}
	if k.use("0") {
		t.Error("a used token was accepted again")
	}
	now = now.Add(usedFor)
	if !k.use("one more") || len(k.used) != 1 {
		t.Errorf("after their time %d are remembered", len(k.used))
	}
}

// TestWaypointTokenProvesItsPodOnly is the same for the tokens of waypoints' pods.
func TestWaypointTokenProvesItsPodOnly(t *testing.T) {
	waypoint := Workload{UID: "way-1", Namespace: "shop", Name: "waypoint-0", ServiceAccount: "waypoint"}
	said := func(edit func(*authv1.TokenReviewStatus)) authv1.TokenReviewStatus {
		return reviewed(func(s *authv1.TokenReviewStatus) {
			s.Audiences, s.User.Username = []string{"warren-waypoint"}, "system:serviceaccount:shop:waypoint"
			s.User.Extra[extraPodUID] = []string{"way-1"}
			edit(s)
		})
	}
	rows := map[string]func(*authv1.TokenReviewStatus){
		"an agent's audience":           func(s *authv1.TokenReviewStatus) { s.Audiences = []string{"warren-ca"} },
		"another service account":       func(s *authv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount:shop:web" },
		"the same of another namespace": func(s *authv1.TokenReviewStatus) { s.User.Username = "system:serviceaccount:legacy:waypoint" },
		"another pod":                   func(s *authv1.TokenReviewStatus) { s.User.Extra[extraPodUID] = []string{"way-2"} },
		"no pod":                        func(s *authv1.TokenReviewStatus) { delete(s.User.Extra, extraPodUID) },
		"not authenticated":             func(s *authv1.TokenReviewStatus) { s.Authenticated = false },
	}
	r := &reviews{answers: map[string]authv1.TokenReviewStatus{"good": said(func(*authv1.TokenReviewStatus) {})}}
	for name, edit := range rows {
		r.answers[name] = said(edit)
	}
	k := NewKubernetes(KubernetesConfig{Reviews: r, Audience: "warren-ca", WaypointAudience: "warren-waypoint"})
	for name := range rows {
		if err := k.AttestWaypoint(t.Context(), waypoint, name); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := k.AttestWaypoint(t.Context(), waypoint, ""); !errors.Is(err, ErrRefused) {
		t.Errorf("no token: %v", err)
	}
	if err := k.AttestWaypoint(t.Context(), waypoint, "good"); err != nil {
		t.Error(err)
	}
	if err := k.AttestWaypoint(t.Context(), waypoint, "good"); !errors.Is(err, ErrRefused) {
		t.Errorf("the good token again: %v", err)
	}
	for _, q := range r.asked {
		if len(q.Audiences) != 1 || q.Audiences[0] != "warren-waypoint" {
			t.Fatalf("asked about audiences %q", q.Audiences)
		}
	}
}
