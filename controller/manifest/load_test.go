package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// folder is a folder of manifests that were left alone long enough to be read.
type folder struct {
	t   *testing.T
	dir string
}

func newFolder(t *testing.T) folder { return folder{t, t.TempDir()} }

func (f folder) write(name, content string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.age(path)
	return path
}

// age makes a file look as if it had been written a while ago; each call gives another time.
func (f folder) age(path string) {
	f.t.Helper()
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(path, old, old); err != nil {
		f.t.Fatal(err)
	}
}

func podYAML(name, extra string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: a}\n" + extra
}

func names(r Result) string {
	var out []string
	for _, o := range r.Objects {
		out = append(out, o.Name)
	}
	return strings.Join(out, " ")
}

func TestBadFileKeepsItsLastGoodContent(t *testing.T) {
	f := newFolder(t)
	l := NewLoader(Config{Roots: []string{f.dir}})
	f.write("a.yaml", podYAML("one", "---\n"+podYAML("two", "")))
	f.write("b.yaml", podYAML("three", ""))
	if got := names(l.Load()); got != "one three two" {
		t.Fatalf("loaded %q", got)
	}
	f.write("a.yaml", podYAML("one", "---\n"+podYAML("Bad", "")))
	f.write("b.yaml", podYAML("four", ""))
	r := l.Load()
	if got := names(r); got != "four one two" {
		t.Errorf("loaded %q, want a.yaml's last good content and b.yaml's new one", got)
	}
	if len(r.Rejected) != 1 || !strings.Contains(r.Rejected[0], "a.yaml:7: Pod a/Bad: metadata.name") {
		t.Errorf("rejected %q", r.Rejected)
	}
	if r = l.Load(); len(r.Rejected) != 1 {
		t.Errorf("an unchanged bad file is rejected no more: %q", r.Rejected)
	}
	f.write("a.yaml", podYAML("five", ""))
	if r = l.Load(); names(r) != "five four" || len(r.Rejected) != 0 {
		t.Errorf("loaded %q, rejected %q", names(r), r.Rejected)
	}
}

func TestFileThatWasJustWrittenWaits(t *testing.T) {
	f := newFolder(t)
	l := NewLoader(Config{Roots: []string{f.dir}, Settle: time.Hour})
	path := filepath.Join(f.dir, "a.yaml")
	if err := os.WriteFile(path, []byte(podYAML("half", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := l.Load(); !r.Unsettled || len(r.Objects) != 0 {
		t.Errorf("a file of now was read: %q, unsettled %v", names(r), r.Unsettled)
	}
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	if r := l.Load(); r.Unsettled || names(r) != "half" {
		t.Errorf("loaded %q, unsettled %v", names(r), r.Unsettled)
	}
}

// A kubelet mounts a ConfigMap as files that link through "..data", which it replaces by rename.
func TestConfigMapVolumeIsReplacedAsOne(t *testing.T) {
	f := newFolder(t)
	l := NewLoader(Config{Roots: []string{f.dir}})
	publish := func(version string) {
		t.Helper()
		f.write(".."+version+"/a.yaml", podYAML("a-"+version, ""))
		f.write(".."+version+"/b.yaml", podYAML("b-"+version, ""))
		tmp := filepath.Join(f.dir, "..data_tmp")
		if err := os.Symlink(".."+version, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(f.dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("v1")
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if err := os.Symlink("..data/"+name, filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(l.Load()); got != "a-v1 b-v1" {
		t.Fatalf("loaded %q", got)
	}
	publish("v2")
	if got := names(l.Load()); got != "a-v2 b-v2" {
		t.Errorf("loaded %q", got)
	}
}

func TestDuplicateNamesBothFilesAndTheEarlierStays(t *testing.T) {
	f, g := newFolder(t), newFolder(t)
	first := f.write("z.yaml", podYAML("p", "spec: {nodeName: first}\n"))
	second := g.write("a.yaml", podYAML("p", "spec: {nodeName: second}\n"))
	r := NewLoader(Config{Roots: []string{f.dir, g.dir}}).Load()
	if len(r.Objects) != 1 || r.Objects[0].Spec.(*Pod).Spec.NodeName != "first" {
		t.Errorf("objects %+v", r.Objects)
	}
	if want := second + ":1: Pod a/p: is also in " + first + ":1, which stays in force"; len(r.Rejected) != 1 || r.Rejected[0] != want {
		t.Errorf("rejected %q, want %q", r.Rejected, want)
	}
}

func TestStatusAddsAddressesAndNothingElse(t *testing.T) {
	f, st := newFolder(t), newFolder(t)
	f.write("a.yaml", podYAML("p", "spec: {serviceAccountName: web}\n")+`---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: a}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: a}
`)
	st.write("a.yaml", `apiVersion: v1
kind: Pod
metadata: {name: p, namespace: a, uid: u1, labels: {warren.dev/mesh: disabled}}
spec: {nodeName: n1, serviceAccountName: admin, hostNetwork: true}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}], conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: a}
spec: {clusterIP: 10.96.0.1, selector: {app: evil}}
---
apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {warren.dev/mesh: enabled}}
---
apiVersion: v1
kind: Pod
metadata: {name: unknown, namespace: a}
`)
	r := NewLoader(Config{Roots: []string{f.dir}, StatusRoots: []string{st.dir}}).Load()
	if names(r) != "a p s" {
		t.Fatalf("objects %q, rejected %q", names(r), r.Rejected)
	}
	pod, svc := r.Objects[1].Spec.(*Pod), r.Objects[2].Spec.(*Service)
	if r.Objects[1].Meta.UID != "u1" || pod.Spec.NodeName != "n1" || pod.Status.IPs()[0] != "10.0.0.1" || pod.Status.Phase != "Running" || len(pod.Status.Conditions) != 1 || svc.ClusterIP != "10.96.0.1" {
		t.Errorf("status is missing: %+v %+v", pod, svc)
	}
	if pod.Spec.ServiceAccountName != "web" || pod.Spec.HostNetwork || len(r.Objects[1].Meta.Labels)+len(r.Objects[0].Meta.Labels) > 0 || svc.Selector["app"] != "web" {
		t.Errorf("status took over what is not its: %+v %+v %+v", pod, svc, r.Objects[0].Meta)
	}
	if len(r.Ignored) != 1 || !strings.Contains(r.Ignored[0].Reason, "no manifest has") {
		t.Errorf("ignored %+v", r.Ignored)
	}
}

func TestFolderThatCannotBeListedIsNotEmpty(t *testing.T) {
	f := newFolder(t)
	root := filepath.Join(f.dir, "root")
	l := NewLoader(Config{Roots: []string{root}})
	if r := l.Load(); !r.Incomplete || len(r.Rejected) != 1 {
		t.Errorf("incomplete %v, rejected %q", r.Incomplete, r.Rejected)
	}
	f.write("root/a.yaml", podYAML("p", ""))
	if r := l.Load(); r.Incomplete || names(r) != "p" {
		t.Errorf("incomplete %v, loaded %q", r.Incomplete, names(r))
	}
	if err := os.Rename(root, root+"-away"); err != nil {
		t.Fatal(err)
	}
	if r := l.Load(); r.Incomplete || names(r) != "p" || len(r.Rejected) == 0 {
		t.Errorf("incomplete %v, loaded %q, rejected %q", r.Incomplete, names(r), r.Rejected)
	}
}

func TestGenerationMovesWithContentOnly(t *testing.T) {
	f := newFolder(t)
	l := NewLoader(Config{Roots: []string{f.dir}})
	path := f.write("a.yaml", podYAML("p", ""))
	first := l.Load().Generation
	if l.Load().Generation != first {
		t.Error("nothing changed, and yet the generation did")
	}
	f.write("a.yaml", podYAML("q", ""))
	second := l.Load().Generation
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if third := l.Load().Generation; second == first || third == second {
		t.Errorf("generations %d %d %d", first, second, third)
	}
}
