package lab

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const latePod = `
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: shop, labels: {app: nobody}}
spec: {nodeName: n2, containers: [{name: c, image: warren.dev/sample, args: [tcp, --mode, peer, --port, "80"]}]}
`

func TestPodAddedWhileTheLabRuns(t *testing.T) {
	w := up(t, "added", twoNodes)
	info, err := w.Info()
	if err != nil {
		t.Fatal(err)
	}
	nobody := net.JoinHostPort(info.Services[2].VIPs[0].String(), "80")
	pod, err := w.AddPod(t.Context(), []byte(latePod))
	if err != nil {
		t.Fatal(err)
	}
	if got := w.ask("shop/web", nobody); !strings.HasSuffix(got, "local="+net.JoinHostPort(pod.Addrs[0].String(), "80")) {
		t.Errorf("the service that had no backend answers %q", got)
	}
	if got := w.ask("shop/web", "late.shop.pod.cluster.local:80"); !strings.HasPrefix(got, "accept=") {
		t.Errorf("late answers %q by name", got)
	}
	if _, err := w.AddPod(t.Context(), []byte(latePod)); !errors.Is(err, ErrExists) {
		t.Errorf("add it again: %v, want ErrExists", err)
	}
	if err := w.RemovePod(t.Context(), "shop/late"); err != nil {
		t.Fatal(err)
	}
	if out, code := w.exec("shop/web", "sample", "client", nobody); code != 1 || !strings.Contains(out, "refused") {
		t.Errorf("after removal the service answers: exit %d, %q", code, out)
	}
	if err := w.RemovePod(t.Context(), "shop/late"); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove it again: %v, want ErrNotFound", err)
	}
	again, err := w.AddPod(t.Context(), []byte(latePod))
	if err != nil {
		t.Fatal(err)
	}
	if again.UID == pod.UID || !slices.Equal(again.Addrs, pod.Addrs) {
		t.Errorf("the next pod of the name has uid %s and %v; want another uid than %s and the free addresses %v", again.UID, again.Addrs, pod.UID, pod.Addrs)
	}
}

func TestPodThatCannotStartIsNotAdded(t *testing.T) {
	w := up(t, "notadded", twoNodes)
	_, err := w.AddPod(t.Context(), []byte(strings.Replace(latePod, "image: warren.dev/sample", "image: host, command: [no-such-command]", 1)))
	if err == nil || !strings.Contains(err.Error(), "shop/late") {
		t.Errorf("AddPod: %v, want an error that names the pod", err)
	}
	if _, err := w.Pod("shop/late"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the pod is there: %v", err)
	}
	if _, err := w.AddPod(t.Context(), []byte(latePod)); err != nil {
		t.Errorf("then the right one: %v", err)
	}
}

func TestRestartKeepsTheNetwork(t *testing.T) {
	w := up(t, "restart", twoNodes)
	before, err := w.PodProcesses("shop/cart")
	if err != nil {
		t.Fatal(err)
	}
	cookie := func() (st unix.Stat_t) {
		path, err := w.PodNetNS("shop/cart")
		if err == nil {
			err = unix.Stat(path, &st)
		}
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	inode := cookie().Ino
	if err := w.RestartPod(t.Context(), "shop/cart"); err != nil {
		t.Fatal(err)
	}
	after, err := w.PodProcesses("shop/cart")
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 1 || after[0] == before[0] || before[0].Alive() || !after[0].Alive() {
		t.Errorf("processes before %v, after %v; want another one that runs", before, after)
	}
	if cookie().Ino != inode {
		t.Error("the pod has another network namespace")
	}
	if got := w.ask("shop/catalog", net.JoinHostPort(w.addr("shop/cart", 0), "9000")); !strings.HasPrefix(got, "accept=") {
		t.Errorf("cart answers %q", got)
	}
}

func TestReconcileFollowsTheManifests(t *testing.T) {
	w := up(t, "reconcile", twoNodes)
	s, err := loadState(w.paths)
	if err != nil {
		t.Fatal(err)
	}
	web, err := w.Pod("shop/web")
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(twoNodes, `args: [tcp, --mode, peer, --port, "9000"]}]`, `args: [tcp, --mode, banner, --port, "9000"]}]`, 1) // web
	changed = strings.Replace(changed, "name: cart, namespace: shop, labels: {app: cart}", "name: basket, namespace: shop, labels: {app: cart}", 1)
	changed = strings.Replace(changed, "labels: {app: catalog}", "labels: {app: catalog, tier: back}", 1)
	catalog, err := w.PodProcesses("shop/catalog")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Manifests, []byte(changed+"---"+latePod), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.ask("shop/catalog", net.JoinHostPort(w.addr("shop/web", 0), "9000")); got != "hello, I speak first" {
		t.Errorf("web, which changed, answers %q", got)
	}
	if now, err := w.Pod("shop/web"); err != nil || now.UID == web.UID {
		t.Errorf("web was made anew, but its uid is %v, %v; was %s", now, err, web.UID)
	}
	if _, err := w.Pod("shop/cart"); !errors.Is(err, ErrNotFound) {
		t.Errorf("cart is still there: %v", err)
	}
	if out, code := w.exec("shop/late", "getent", "ahostsv4", "cart"); code != 0 || !strings.HasPrefix(out, w.addr("shop/basket", 0)+" ") {
		t.Errorf("the service cart leads to %q, want basket", out)
	}
	if now, err := w.PodProcesses("shop/catalog"); err != nil || !slices.Equal(now, catalog) {
		t.Errorf("catalog, of which only labels changed, was started again: %v, was %v", now, catalog)
	}
	if err := os.WriteFile(s.Manifests, []byte(twoNodes+"---\n{apiVersion: v1, kind: Node, metadata: {name: n3}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Reconcile(t.Context()); !errors.Is(err, ErrManifest) {
		t.Errorf("a third node: %v, want ErrManifest", err)
	}
}
