package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/deploy"
	crowds "github.com/warren-mesh/warren/internal/crowd"
	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/mesh"
)

// The size that docs/performance.md states; WARREN_SCALE=<nodes>x<pods> is another.
const scaleNodes, scalePods, scaleProbes, churnSeconds, churnPerSecond = 1000, 5000, 20, 30, 20

const scaleNamespace = `
apiVersion: v1
kind: Namespace
metadata: {name: warren-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: warren-mesh, namespace: warren-system}
data: {state: running}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {warren.dev/mesh: enabled}}
`

// scaleGroup is one service with the pods behind it.
const scaleGroup = `
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop}
spec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: shop}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s, crowd: ""}}
    spec:
      nodeSelector: {warren.dev/simulated: ""}
      tolerations: [{key: warren.dev/simulated, operator: Exists}]
      containers: [{name: none, image: localhost/none:1}]
`

// serviceSizes returns how many pods each service has, the largest first: two fifths of all pods are in services of up to
// 1,000, two fifths in services of up to 50, and the rest in small ones.
func serviceSizes(pods int) (sizes []int) {
	fill := func(pods, most int) {
		for ; pods > 0; pods -= most {
			sizes = append(sizes, min(pods, most))
		}
	}
	fill(2*pods/5, 1000)
	fill(2*pods/5, 50)
	fill(pods-2*(2*pods/5), 10)
	return sizes
}

// TestScale measures the controller beside a real API server: memory, CPU, and the time from a pod's readiness to every
// agent's acknowledgement. It takes some minutes and asserts only that everybody is reached; WARREN_E2E_LONG=1 runs it.
func TestScale(t *testing.T) {
	if os.Getenv("WARREN_E2E_LONG") != "1" {
		t.Skip("a measurement of minutes: WARREN_E2E_LONG=1 runs it")
	}
	s := newScale(t)
	s.connect()
	s.report("%d nodes and agents, no pod", s.nodes)
	s.populate()
	s.report("%d pods", s.pods)
	s.probe()
	s.churn()
	s.report("after churn")
}

// scaleRun is one measurement.
type scaleRun struct {
	*kube
	t           *testing.T
	nodes, pods int
	controller  *exec.Cmd
	metrics     string
	rest        *rest.Config
	crowd       *crowds.Crowd
	since       time.Time
	cpu         time.Duration
	updates     uint64
}

func newScale(t *testing.T) *scaleRun {
	s := &scaleRun{t: t, nodes: scaleNodes, pods: scalePods, metrics: "127.0.0.1:15014"}
	if size := os.Getenv("WARREN_SCALE"); size != "" {
		if n, err := fmt.Sscanf(size, "%dx%d", &s.nodes, &s.pods); n != 2 {
			t.Fatalf("WARREN_SCALE=%q: want <nodes>x<pods>: %v", size, err)
		}
	}
	s.kube = up(t, "scale", func(c *cluster.Config) { c.Nodes, c.NodeGrace = 1, 10*time.Minute })
	var err error
	if s.rest, err = s.RestConfig(); err != nil {
		t.Fatal(err)
	}
	s.kube.apply(crds(t))
	s.kube.apply(scaleNamespace)
	s.start()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := s.Simulate(ctx, s.nodes); err != nil {
		t.Fatal(err)
	}
	return s
}

// crds are the chart's.
func crds(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := fs.WalkDir(deploy.Chart(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "files/crds/") {
			return err
		}
		raw, err := fs.ReadFile(deploy.Chart(), path)
		fmt.Fprintf(&all, "---\n%s\n", raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// start runs the controller that is shipped in the control plane's network namespace.
func (s *scaleRun) start() {
	s.t.Helper()
	binary := filepath.Join(s.t.TempDir(), "controller")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/warren-mesh/warren/cmd/controller")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.t.Fatalf("build the controller: %v\n%s", err, out)
	}
	dir := s.t.TempDir()
	address := s.ControlPlane().Addrs()[0].String()
	s.controller = s.ControlPlane().Command(s.t.Context(), binary, "--kubernetes", "--kubeconfig="+s.Kubeconfig(), "--pod-name=scale",
		"--pod-ip="+address, "--state-dir="+dir, "--admin-socket="+filepath.Join(dir, "controller.sock"), "--metrics-listen="+s.metrics)
	log := &bytes.Buffer{}
	s.controller.Stdout, s.controller.Stderr = log, log
	if err := s.controller.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = s.controller.Process.Kill()
		_ = s.controller.Wait()
		if s.t.Failed() {
			s.t.Log(log.String()[max(0, log.Len()-8000):])
		}
	})
	files := filepath.Join(dir, "secret")
	await(s.t, "the controller leads", 30*time.Second, func() error {
		_, err := os.Stat(filepath.Join(files, "tls.key"))
		return err
	})
	authority, err := ca.Open(ca.Config{
		TrustDomain: "cluster.local", CertFile: filepath.Join(files, "tls.crt"), KeyFile: filepath.Join(files, "tls.key"),
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.crowd = crowds.New(authority, s.rest.Dial, net.JoinHostPort(address, "15012"))
	s.since = time.Now()
}

func (s *scaleRun) connect() {
	s.t.Helper()
	names := make([]string, s.nodes)
	for i := range names {
		names[i] = "sim-" + strconv.Itoa(i)
	}
	started := time.Now()
	done := make(chan error, 1)
	go func() { done <- s.crowd.Run(s.t.Context(), names) }()
	s.t.Cleanup(func() {
		if err := <-done; err != nil && !s.t.Failed() {
			s.t.Error(err)
		}
	})
	s.caughtUp(2*time.Minute, "every agent is connected and has everything")
	s.t.Logf("%d agents connected and up to date after %s", s.nodes, time.Since(started).Round(time.Millisecond))
}

// caughtUp waits until every agent has acknowledged one and the same version, which is the newest.
func (s *scaleRun) caughtUp(patience time.Duration, what string) {
	s.t.Helper()
	await(s.t, what, patience, func() error {
		at := s.crowd.At()
		newest, err := s.metric("warren_controller_config_version")
		if err != nil {
			return err
		}
		if at[uint64(newest)] != s.nodes {
			return fmt.Errorf("%d of %d agents are at version %.0f", at[uint64(newest)], s.nodes, newest)
		}
		return nil
	})
}

// metric scrapes one value.
func (s *scaleRun) metric(name string) (float64, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: s.rest.Dial, DisableKeepAlives: true}}
	res, err := client.Get("http://" + s.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(res.Body); err != nil {
		return 0, err
	}
	for line := range strings.Lines(body.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, errors.New("no metric " + name)
}

// report prints what the controller cost since the last report.
func (s *scaleRun) report(format string, args ...any) {
	s.t.Helper()
	rss, err := s.metric("process_resident_memory_bytes")
	if err != nil {
		s.t.Fatal(err)
	}
	seconds, err := s.metric("process_cpu_seconds_total")
	if err != nil {
		s.t.Fatal(err)
	}
	cpu := time.Duration(seconds * float64(time.Second))
	updates, bytes := s.crowd.Totals()
	s.t.Logf("%s: controller %.0f MiB resident, %.0f%% of a CPU over the last %s; %d updates, %d MiB in all", fmt.Sprintf(format, args...),
		rss/(1<<20), 100*float64(cpu-s.cpu)/float64(time.Since(s.since)), time.Since(s.since).Round(time.Second), updates-s.updates, bytes>>20)
	s.since, s.cpu, s.updates = time.Now(), cpu, updates
}

// populate makes all pods at once.
func (s *scaleRun) populate() {
	s.t.Helper()
	started := time.Now()
	var all strings.Builder
	for i, size := range serviceSizes(s.pods) {
		fmt.Fprintf(&all, scaleGroup, "crowd-"+strconv.Itoa(i), size)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	if err := s.Apply(ctx, all.String()); err != nil {
		s.t.Fatal(err)
	}
	s.rolledOut(25 * time.Minute)
	ready := time.Since(started)
	s.caughtUp(2*time.Minute, "every agent knows every pod")
	s.t.Logf("%d pods Ready after %s, known to every agent %s later", s.pods, ready.Round(time.Second), (time.Since(started) - ready).Round(time.Millisecond))
}

func (s *scaleRun) rolledOut(patience time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for i := range serviceSizes(s.pods) {
		if _, err := s.Kubectl(ctx, "-n", "shop", "rollout", "status", "deployment/crowd-"+strconv.Itoa(i)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// probe times single pods: from the API server saying that one is ready to the last agent acknowledging it.
func (s *scaleRun) probe() {
	s.t.Helper()
	var took []time.Duration
	for i := range scaleProbes {
		took = append(took, s.probeOne(i))
	}
	s.t.Logf("from a pod's readiness to all %d agents, %d times: %s", s.nodes, scaleProbes, spread(took))
}

func (s *scaleRun) probeOne(i int) time.Duration {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	name := "probe-" + strconv.Itoa(i)
	pods := s.client.CoreV1().Pods("shop")
	w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	made, err := pods.Create(ctx, simulatedPod(name), metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.crowd.Watch(string(made.UID))
	ready := readyAt(w)
	if ready.IsZero() {
		s.t.Fatalf("pod %s is not ready", name)
	}
	mesh.Await(s.t, "every agent has acknowledged "+name, 30*time.Second, func() error {
		if _, agents := s.crowd.Last(); agents != s.nodes {
			return fmt.Errorf("%d of %d agents have", agents, s.nodes)
		}
		return nil
	})
	time.Sleep(500 * time.Millisecond) // the last update that names it may be another one
	last, _ := s.crowd.Last()
	return max(0, last.Sub(ready))
}

// readyAt is when the watcher heard that its pod is ready.
func readyAt(w watch.Interface) time.Time {
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.Status.PodIP != "" {
				return time.Now()
			}
		}
	}
	return time.Time{}
}

func simulatedPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "crowd-0"}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{cluster.Simulated: ""},
			Tolerations:  []corev1.Toleration{{Key: cluster.Simulated, Operator: corev1.TolerationOpExists}},
			Containers:   []corev1.Container{{Name: "none", Image: "localhost/none:1"}},
		},
	}
}

// churn deletes pods at a steady rate; the Deployment replaces each.
func (s *scaleRun) churn() {
	s.t.Helper()
	list, err := s.client.CoreV1().Pods("shop").List(s.t.Context(), metav1.ListOptions{LabelSelector: "crowd", Limit: churnSeconds * churnPerSecond})
	if err != nil {
		s.t.Fatal(err)
	}
	s.report("before churn")
	tick := time.NewTicker(time.Second / churnPerSecond)
	defer tick.Stop()
	now := int64(0)
	for _, pod := range list.Items {
		<-tick.C
		if err := s.client.CoreV1().Pods("shop").Delete(s.t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			s.t.Fatal(err)
		}
	}
	s.report("%d pods a second replaced for %d s", churnPerSecond, churnSeconds)
	s.rolledOut(2 * time.Minute)
	s.caughtUp(time.Minute, "every agent knows the pods that are left")
}

// spread is the least, the middle and the most.
func spread(all []time.Duration) string {
	slices.Sort(all)
	ms := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	return fmt.Sprintf("min %s, median %s, max %s", ms(all[0]), ms(all[len(all)/2]), ms(all[len(all)-1]))
}
