package meshtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestPinsOfTheDeadAreSweptAndThoseOfTheLivingStay(t *testing.T) {
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(bpffs, fmt.Sprintf("%s%d-n1-1", pinPrefix, child.Process.Pid))
	alive := pinDir(t, "n1")
	for _, dir := range []string{dead, alive} {
		if err := os.MkdirAll(filepath.Join(dir, "v1", "maps"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	sweep(t)
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("what process %d left is still there: %v", child.Process.Pid, err)
		_ = os.RemoveAll(dead)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Error(err)
	}
}
