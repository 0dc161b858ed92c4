package compile

import (
	"path/filepath"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/warren-mesh/warren/controller/manifest"
)

// FuzzCompile compiles whatever can be read: it must not panic, and a state that it returns is one that decodes.
func FuzzCompile(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, in := range archive.Files[:len(archive.Files)-1] {
			f.Add(in.Data)
		}
	}
	f.Add([]byte(`{apiVersion: gateway.networking.k8s.io/v1, kind: List, items: []}`))
	f.Add([]byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: s}
spec: {gatewayClassName: warren-waypoint}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: s}
spec: {parentRefs: [{name: wp}, {kind: Service, name: s}], rules: [{filters: [{type: RequestRedirect}], backendRefs: [{}]}]}
`))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, _, err := manifest.Parse("f.yaml", data)
		if err != nil {
			return
		}
		if _, err := Compile(objects, Options{TrustDomain: "cluster.local"}); err != nil {
			t.Errorf("what could be read cannot be compiled: %v", err)
		}
	})
}
