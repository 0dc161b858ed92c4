package cluster

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func agentPod(name, node string, set func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{appLabel: Agent}},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{}}},
	}
	set(&p)
	return p
}

func TestWhyAPodIsNotReady(t *testing.T) {
	for want, set := range map[string]func(*corev1.Pod){
		"":                             func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Ready = true },
		"the old one is stopping":      func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} },
		"it runs and is not ready yet": func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning },
		"FailedMount: no roots":        func(*corev1.Pod) {},
		"ImagePullBackOff: Back-off pulling image": func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "Back-off\npulling image"}
		},
		"CrashLoopBackOff: exit code 1: no kernel": func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Message: "no kernel"}
		},
		"Unschedulable: 0/2 nodes": func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes"}}
		},
	} {
		p := agentPod("a", "n", set)
		if got := notReady(&p, "FailedMount: no roots"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAgentsAreDoneOnlyOnceAllAreOfTheNewVersion(t *testing.T) {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: appsv1.DaemonSetStatus{
		ObservedGeneration: 2, DesiredNumberScheduled: 2, CurrentNumberScheduled: 2, NumberReady: 2, NumberAvailable: 2, UpdatedNumberScheduled: 2}}
	if p := agentPart(ds, nil, nil); !p.Done() || p.Ready != 2 || p.Want != 2 {
		t.Errorf("all are ready and it says %+v", p)
	}
	for what, change := range map[string]func(*appsv1.DaemonSetStatus){
		"the change was not seen yet": func(s *appsv1.DaemonSetStatus) { s.ObservedGeneration = 1 },
		"one is old":                  func(s *appsv1.DaemonSetStatus) { s.UpdatedNumberScheduled = 1 },
		"one is not available":        func(s *appsv1.DaemonSetStatus) { s.NumberAvailable = 1 },
	} {
		other := ds.DeepCopy()
		change(&other.Status)
		if agentPart(other, nil, nil).Done() {
			t.Errorf("done although %s", what)
		}
	}
}

func TestPodsThatMayNotBeMadeAreExplained(t *testing.T) {
	ds := &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 2}}
	old := corev1.Event{Reason: "SuccessfulCreate", LastTimestamp: metav1.Unix(1, 0), InvolvedObject: corev1.ObjectReference{Kind: "DaemonSet", Name: Agent}}
	late := corev1.Event{Reason: "FailedCreate", Message: "violates PodSecurity", LastTimestamp: metav1.Unix(2, 0), InvolvedObject: old.InvolvedObject}
	p := agentPart(ds, nil, newestWarnings([]corev1.Event{late, old}))
	if !slices.Equal(p.Waiting, []string{"no node: FailedCreate: violates PodSecurity"}) {
		t.Errorf("it says %q", p.Waiting)
	}
}

func TestRedactTakesSecretsOut(t *testing.T) {
	const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl"
	for text, secret := range map[string]string{
		"-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----": "MHcC",
		"-----BEGIN PRIVATE KEY-----\nMHcCAQEE and it was cut":                   "MHcC",
		"token is " + jwt + " said the log":                                      jwt[:20],
		"Authorization: Bearer abcdefgh12345678":                                 "abcdefgh",
		"proxy=http://user:hunter22@proxy:3128/":                                 "hunter22",
		`{"password":"correct-horse"}`:                                           "correct",
		"join_token=0123456789abcdef":                                            "0123456",
	} {
		got := string(Redact([]byte(text)))
		if strings.Contains(got, secret) || !strings.Contains(got, "removed") {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{
		"spiffe://cluster.local/ns/shop/sa/web", "--join-token-file=/var/run", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
		`{"secret":""}`, "http://10.0.0.1:8080/a@b",
	} {
		if got := string(Redact([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
