package manifest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/warren-mesh/warren/api/v1alpha1"
)

// The first line of every file in testdata/errors.txtar is "# " and the error without the file's name.
func TestBadManifestsAreRejectedByLineAndField(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/errors.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		t.Run(f.Name, func(t *testing.T) {
			first, _, _ := bytes.Cut(f.Data, []byte("\n"))
			want := f.Name + ":" + strings.TrimPrefix(string(first), "# ")
			_, _, err := Parse(f.Name, f.Data)
			if err == nil || err.Error() != want {
				t.Fatalf("got  %v\nwant %s", err, want)
			}
			if !errors.Is(err, ErrRejected) {
				t.Error("the error does not wrap ErrRejected")
			}
		})
	}
}

func TestOtherKindsAreIgnoredWithAReason(t *testing.T) {
	objects, ignored, err := Parse("f.yaml", []byte(`
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: a}, data: {anything: 5}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: a}}
- {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {unknown: [1, {two: 3}]}}
---
# nothing
---
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 1 || objects[0].Key.String() != "Pod default/p" || objects[0].Origin.String() != "f.yaml:7" {
		t.Errorf("objects: %v at %v", objects[0].Key, objects[0].Origin)
	}
	if len(ignored) != 2 || ignored[1].Object != "Deployment a/d" || !strings.Contains(ignored[1].Reason, "no use for apps/v1 Deployment") {
		t.Errorf("ignored: %+v", ignored)
	}
}

func TestPolicyIsReadWhole(t *testing.T) {
	objects, _, err := Parse("f.yaml", []byte(`
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: p, namespace: a, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules:
  - from: [{source: {notServiceAccounts: [x/y]}}]
    to: [{operation: {ports: ["80", 443], notPorts: [8080]}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	spec := objects[0].Spec.(*v1alpha1.AuthorizationPolicySpec)
	r := spec.Rules[0]
	if spec.Action != "DENY" || spec.Selector.MatchLabels["app"] != "db" || r.From[0].Source.NotServiceAccounts[0] != "x/y" ||
		r.To[0].Operation.Ports[1] != "443" || r.To[0].Operation.NotPorts[0] != "8080" || objects[0].Meta.CreationTimestamp == "" {
		t.Errorf("read as %+v", spec)
	}
}

// bomb is a document of a few kilobytes that expands to 10^9 nodes.
func bomb() []byte {
	var b strings.Builder
	b.WriteString("a0: &a0 {kind: x}\n")
	for i := range 9 {
		prev := "*a" + string(rune('0'+i))
		b.WriteString("a" + string(rune('1'+i)) + ": &a" + string(rune('1'+i)) + " [" + strings.TrimSuffix(strings.Repeat(prev+",", 10), ",") + "]\n")
	}
	b.WriteString("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a}\nstatus: {conditions: *a9}\n")
	return []byte(b.String())
}

func TestBombsAreRefused(t *testing.T) {
	many := "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n---\n"
	wide := "apiVersion: v1\nkind: List\nitems:\n- &p {apiVersion: v1, kind: Pod, metadata: {name: p, ownerReferences: &o [" +
		strings.Repeat("{kind: x},", 1000) + "]}}\n" + strings.Repeat("- *p\n", 3000)
	for name, c := range map[string]struct{ data, want string }{
		"aliases":  {string(bomb()), "nodes|want a mapping"},
		"repeated": {wide, "occurs twice|want"},
		"cycle":    {"apiVersion: v1\nkind: Pod\nmetadata: &m {name: p, labels: *m}\n", "want a string|nested"},
		"size":     {strings.Repeat("#", maxFileBytes+1), "larger than"},
		"objects":  {strings.Repeat(strings.Replace(many, "Node", "ConfigMap", 1), maxFileObjects+1), "more than 10000 objects"},
		"deep":     {strings.Repeat("[", 100_000), "YAML"},
	} {
		_, _, err := Parse("f.yaml", []byte(c.data))
		found := false
		for want := range strings.SplitSeq(c.want, "|") {
			found = found || err != nil && strings.Contains(err.Error(), want)
		}
		if !found {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func FuzzManifest(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/errors.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archive.Files {
		f.Add(file.Data)
	}
	f.Add(bomb())
	f.Add([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: http}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, _, err := Parse("f.yaml", data)
		if err != nil {
			if !errors.Is(err, ErrRejected) || !strings.HasPrefix(err.Error(), "f.yaml:") || len(objects) > 0 {
				t.Fatalf("rejected as %v with %d objects", err, len(objects))
			}
			return
		}
		for _, o := range objects {
			if o.Name == "" || o.Kind == "" || o.Origin.Line < 1 {
				t.Fatalf("accepted %+v", o)
			}
		}
	})
}
