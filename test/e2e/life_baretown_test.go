package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/warren-mesh/warren/test/e2e/cluster"
)

// barePrefix is what bare pods' names begin with.
const barePrefix = "bare-"

// bareTown are the bare pods of both namespaces, all on one node, behind the same services as the other servers.
type bareTown struct {
	life
	ctx   context.Context
	node  *cluster.Node
	host  *cluster.Bare
	addrs chan []netip.Addr // free ones; those that have been free for longest are first
	tasks sync.WaitGroup
	gone  int    // pods of each namespace that were told to go
	clear func() // removes all, once

	mu                        sync.Mutex
	up                        map[string][]*corev1.Pod // that serve, by namespace, oldest first
	made, answered, answering map[string]int           // by namespace: pods, requests, pods that answered one
	slowest                   map[string]time.Duration // the plug-in
}

func (l life) newBareTown(ctx context.Context, node *cluster.Node) *bareTown {
	l.t.Helper()
	host, err := node.StartBare("warren-cni")
	if err != nil {
		l.t.Fatal(err)
	}
	b := &bareTown{life: l, ctx: ctx, node: node, host: host, addrs: make(chan []netip.Addr, 256), up: map[string][]*corev1.Pod{},
		made: map[string]int{}, answered: map[string]int{}, answering: map[string]int{}, slowest: map[string]time.Duration{}}
	b.clear = sync.OnceFunc(b.removeAll)
	b.collectAddrs()
	return b
}

// collectAddrs finds the node's addresses that no pod has. Nobody else gives any to pods meanwhile.
func (b *bareTown) collectAddrs() {
	b.t.Helper()
	list, err := b.Client.CoreV1().Pods("").List(b.ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + b.node.Name})
	if err != nil {
		b.t.Fatal(err)
	}
	taken := map[string]bool{}
	for _, p := range list.Items {
		for _, ip := range p.Status.PodIPs {
			taken[ip.IP] = true
		}
	}
	ranges := b.node.PodRanges()
	gateway := func(r netip.Prefix) netip.Addr { return r.Masked().Addr().Next() }
	v6 := gateway(ranges[1])
	for v4 := gateway(ranges[0]).Next(); ranges[0].Contains(v4.Next()); v4 = v4.Next() { // but the broadcast address
		if v6 = v6.Next(); !taken[v4.String()] && !taken[v6.String()] {
			b.addrs <- []netip.Addr{v4, v6}
		}
	}
}

// turn lets one pod of each namespace go and one come, unless the machine is behind with those that shall come.
func (b *bareTown) turn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if min(len(b.up[inMesh]), len(b.up[outMesh])) < bareStanding/2 {
		return
	}
	b.gone++
	for _, ns := range []string{inMesh, outMesh} {
		oldest := b.up[ns][0]
		b.up[ns] = b.up[ns][1:]
		b.tasks.Go(func() { b.leave(oldest) })
		b.come(ns)
	}
}

// come makes a pod of a namespace, as the scheduler and the kubelet do.
func (b *bareTown) come(ns string) {
	b.tasks.Go(func() {
		p, err := b.start(ns, <-b.addrs)
		if err != nil {
			b.t.Errorf("a pod of %s does not come: %v", ns, err)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.up[ns] = append(b.up[ns], p)
	})
}

func (b *bareTown) start(ns string, addrs []netip.Addr) (*corev1.Pod, error) {
	grace, no := int64(30), false
	p, err := b.Client.CoreV1().Pods(ns).Create(b.ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: barePrefix, Labels: map[string]string{"app": "server"}},
		Spec: corev1.PodSpec{
			NodeName: b.node.Name, TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "none", Image: "localhost/none:1"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	took, err := b.host.Add(cluster.BarePod{UID: string(p.UID), Namespace: ns, Name: p.Name, Addrs: addrs})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.made[ns]++
	b.slowest[ns] = max(b.slowest[ns], took)
	b.mu.Unlock()
	return b.Client.CoreV1().Pods(ns).Patch(b.ctx, p.Name, types.StrategicMergePatchType, b.ready(addrs), metav1.PatchOptions{}, "status")
}

// ready is the status of a pod that serves.
func (b *bareTown) ready(addrs []netip.Addr) []byte {
	now := metav1.Now()
	s := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &now, HostIP: b.node.Addrs()[0].String(), PodIP: addrs[0].String()}
	for _, a := range addrs {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: a.String()})
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	raw, err := json.Marshal(map[string]any{"status": s})
	if err != nil {
		panic(err) // of what Kubernetes itself encodes so
	}
	return raw
}

// leave ends a pod as one that wants to lose no request: it serves until nobody comes any more.
func (b *bareTown) leave(p *corev1.Pod) {
	pods := b.Client.CoreV1().Pods(p.Namespace)
	if err := pods.Delete(b.ctx, p.Name, metav1.DeleteOptions{}); err != nil {
		b.t.Errorf("a pod of %s cannot go: %v", p.Namespace, err)
		return
	}
	time.Sleep(bareDrain)
	if err := b.end(p); err != nil {
		b.t.Errorf("a pod of %s does not go: %v", p.Namespace, err)
	}
}

// end is the end of a pod that serves.
func (b *bareTown) end(p *corev1.Pod) error {
	answered, err := b.host.Remove(string(p.UID))
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.answered[p.Namespace] += answered
	if answered > 0 {
		b.answering[p.Namespace]++
	}
	b.mu.Unlock()
	if err := b.forget(p); err != nil {
		return err
	}
	var addrs []netip.Addr
	for _, ip := range p.Status.PodIPs {
		addrs = append(addrs, netip.MustParseAddr(ip.IP))
	}
	b.addrs <- addrs
	return nil
}

// forget removes a pod's object.
func (b *bareTown) forget(p *corev1.Pod) error {
	now := int64(0)
	err := b.Client.CoreV1().Pods(p.Namespace).Delete(b.ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// removeAll ends every pod that serves, the process that made them, and what there is else of them in the API.
func (b *bareTown) removeAll() {
	b.tasks.Wait()
	for _, ns := range []string{inMesh, outMesh} {
		for _, p := range b.up[ns] {
			b.tasks.Go(func() {
				if err := b.end(p); err != nil {
					b.t.Errorf("a pod of %s does not go: %v", ns, err)
				}
			})
		}
	}
	b.tasks.Wait()
	if err := b.host.Close(); err != nil {
		b.t.Error(err)
	}
	list, err := b.Client.CoreV1().Pods("").List(b.ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + b.node.Name})
	if err != nil {
		b.t.Error(err)
		return
	}
	for _, p := range list.Items {
		if strings.HasPrefix(p.Name, barePrefix) {
			if err := b.forget(&p); err != nil {
				b.t.Error(fmt.Errorf("what is left of %s: %w", p.Name, err))
			}
		}
	}
}
