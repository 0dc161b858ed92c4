package enroll

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
)

func TestPlan(t *testing.T) {
	record := func(edit func(*mesh.Workload)) *mesh.Workload {
		w := &mesh.Workload{UID: "u", Namespace: "shop", Name: "web", ServiceAccount: "web", TrustDomain: "cluster.local", Node: "n1", Enrolled: true}
		if edit != nil {
			edit(w)
		}
		return w
	}
	web, err := identity.New("cluster.local", "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		w        *mesh.Workload
		captured bool
		want     step
	}{
		"nobody knows it":                   {nil, false, unknown},
		"its record vanished":               {nil, true, stay}, // fail closed: only Remove lets it out
		"it is in the mesh":                 {record(nil), false, enrol},
		"it is served already":              {record(nil), true, stay},
		"it is not in the mesh":             {record(func(w *mesh.Workload) { w.Enrolled = false }), false, outside},
		"it left the mesh":                  {record(func(w *mesh.Workload) { w.Enrolled = false }), true, release},
		"it has the host's network":         {record(func(w *mesh.Workload) { w.HostNetwork = true }), false, outside},
		"another node has it":               {record(func(w *mesh.Workload) { w.Node = "n2" }), false, outside},
		"another node has it now":           {record(func(w *mesh.Workload) { w.Node = "n2" }), true, release},
		"it has another service account":    {record(func(w *mesh.Workload) { w.ServiceAccount = "root" }), true, rename},
		"it has an impossible identity":     {record(func(w *mesh.Workload) { w.ServiceAccount = "../x" }), true, stay},
		"it has an impossible trust domain": {record(func(w *mesh.Workload) { w.TrustDomain = "" }), true, stay},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := plan("n1", c.w, c.captured, web); got != c.want {
				t.Errorf("plan is %q, want %q", got, c.want)
			}
		})
	}
}

func TestRegistryOutlivesTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pods.json")
	if regs, err := loadRegistry(path); err != nil || regs != nil {
		t.Fatalf("an absent registry is %v, %v", regs, err)
	}
	want := Registration{UID: "u", Namespace: "shop", Name: "web", Netns: "/run/netns/x"}
	if err := saveRegistry(path, []Registration{want}); err != nil {
		t.Fatal(err)
	}
	got, err := loadRegistry(path)
	if err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("read back %v, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v; want 0600", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadRegistry(path); err == nil {
		t.Error("a damaged registry was read")
	}
}
