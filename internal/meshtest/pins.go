package meshtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/bpf"
)

const (
	bpffs     = "/sys/fs/bpf"
	pinPrefix = "warren-test-"
)

// pinDir is a new directory of pins of this process, gone when the test ends.
func pinDir(tb testing.TB, node string) string {
	tb.Helper()
	dir := filepath.Join(bpffs, fmt.Sprintf("%s%d-%s-%d", pinPrefix, os.Getpid(), node, time.Now().UnixNano()))
	tb.Cleanup(func() {
		if err := bpf.Remove(dir); err != nil {
			tb.Errorf("node %s: %v", node, err)
		}
	})
	return dir
}

// sweep removes the pins of test processes that were killed before they could: their programs would go on judging
// every connection of the machine. Whose they are says the pid in their name.
func sweep(tb testing.TB) {
	tb.Helper()
	dirs, err := filepath.Glob(filepath.Join(bpffs, pinPrefix+"*"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, dir := range dirs {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), pinPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		if err := bpf.Remove(dir); err != nil {
			tb.Logf("what a killed test left in %s stays: %v", dir, err)
		}
	}
}
