package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// calls is what the stand-in of a node's agent was asked.
func (w world) calls(node string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.paths.node(node), "state", "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return string(text)
}

func TestAgentsKnowPodsBeforeTheyRun(t *testing.T) {
	w := upWith(t, Options{Name: "order", Manifests: writeManifest(t, twoNodes), BinDir: standInBin(t)})
	if got := w.calls("n1"); got != "add shop/web\nadd shop/cart\n" {
		t.Errorf("the agent of n1 was asked %q", got)
	}
	if got := w.calls("n2"); got != "add shop/catalog\n" {
		t.Errorf("the agent of n2 was asked %q", got)
	}
	cart, err := w.Pod("shop/cart")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RemovePod(t.Context(), "shop/cart"); err != nil {
		t.Fatal(err)
	}
	if got := w.calls("n1"); !strings.HasSuffix(got, "remove "+cart.UID+"\n") {
		t.Errorf("after cart is gone, the agent of n1 was asked %q; want it to forget %s", got, cart.UID)
	}
	if _, err := os.Stat(podStatusFile(w.paths, cart)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the status of cart is still there: %v", err)
	}
}

func TestAgentAndControllerCanBeKilledAndStarted(t *testing.T) {
	w := upWith(t, Options{Name: "kill", Manifests: writeManifest(t, twoNodes), BinDir: standInBin(t)})
	if err := w.StartAgent(t.Context(), "n1"); !errors.Is(err, ErrExists) {
		t.Errorf("start an agent that runs: %v, want ErrExists", err)
	}
	if err := w.KillAgent("n1", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := w.KillAgent("n1", syscall.SIGKILL); !errors.Is(err, ErrNotFound) {
		t.Errorf("kill it again: %v, want ErrNotFound", err)
	}
	if answers(w.AgentSocket("n1")) || !answers(w.AgentSocket("n2")) {
		t.Error("want the agent of n1 dead and that of n2 alive")
	}
	if err := w.RestartPod(t.Context(), "shop/web"); err != nil {
		t.Errorf("restart a pod without its agent: %v", err)
	}
	if err := w.StartAgent(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if !answers(w.AgentSocket("n1")) {
		t.Error("the agent that was started again does not answer")
	}
	if err := w.KillController(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if labs, err := List(); err != nil || len(labs) == 0 || !strings.Contains(labs[0].Problem, "controller") {
		t.Errorf("List: %v, %v; want it to say that the controller does not run", labs, err)
	}
	if err := w.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !answers(w.ControllerSocket()) {
		t.Error("the controller that was started again does not answer")
	}
}

func TestWhatAnAgentSaysIsInTheError(t *testing.T) {
	for name, c := range map[string]struct {
		fail string
		want []string
	}{
		"refuses a pod":     {"add", []string{"pod shop/web", "node n1", "no room for web"}},
		"ends at its start": {"start", []string{"agent-n1", "cannot load the capture"}},
	} {
		t.Run(name, func(t *testing.T) {
			const lab = "agentfails"
			before := traces(t, lab)
			_, err := Up(t.Context(), Options{Name: lab, Manifests: writeManifest(t, twoNodes), BinDir: standInBin(t), AgentArgs: []string{"--fail", c.fail}})
			if err == nil {
				t.Fatal("Up: no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Up: %v; want it to name %q", err, want)
				}
			}
			expectNoNewTraces(t, lab, before)
		})
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	for _, f := range Check(standInBin(t)) {
		if !f.OK {
			t.Errorf("%s: %s; %s", f.Name, f.Detail, f.Hint)
		}
	}
	findings := Check(t.TempDir())
	if last := findings[len(findings)-1]; last.OK || last.Hint == "" || !strings.Contains(last.Detail, "agent, controller, sample") {
		t.Errorf("an empty folder of binaries: %+v", last)
	}
}
