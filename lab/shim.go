package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// shimCommand is the first argument of a copy of the running binary that is to become something else.
const shimCommand = "__warren-lab"

// Exit codes of a command that could not be started, as shells use them.
const (
	exitSetup         = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// reportFD is where a shim that was asked to says what went wrong. It closes without a word once all is well.
const reportFD = 3

// shimSpec tells a shim what to become.
type shimSpec struct {
	NetNS    string   // path of the network namespace to enter
	Etc      string   // folder whose files replace those of /etc; empty keeps the machine's view of files
	Hostname string   // set together with Etc
	Dir      string   // working directory, empty for /
	Argv     []string // what to execute
	Zone     string   // instead of executing anything, serve DNS from this file
	Report   bool     // errors go to reportFD instead of standard error
}

// ShimMain must be the first thing that main, or TestMain, of a binary with labs in it calls, with os.Args[1:]. If the
// arguments are a lab's, it becomes what they ask for and does not return, except with handled true once the lab's
// DNS server was told to end; the caller then exits.
func ShimMain(args []string) (handled bool) {
	if len(args) != 2 || args[0] != shimCommand {
		return false
	}
	var spec shimSpec
	if err := json.Unmarshal([]byte(args[1]), &spec); err != nil {
		fmt.Fprintln(os.Stderr, "warren lab shim:", err)
		os.Exit(exitSetup)
	}
	report := os.Stderr
	if spec.Report {
		unix.CloseOnExec(reportFD)
		report = os.NewFile(reportFD, "report")
	}
	if code, err := runShim(spec, report); err != nil {
		_, _ = fmt.Fprintln(report, err)
		os.Exit(code)
	}
	return true
}

func runShim(spec shimSpec, report *os.File) (int, error) {
	runtime.LockOSThread()
	if err := enterNetNS(spec.NetNS); err != nil {
		return exitSetup, err
	}
	if spec.Etc != "" {
		if err := privateFiles(spec.Etc, spec.Hostname); err != nil {
			return exitSetup, err
		}
	}
	if spec.Zone != "" {
		return exitSetup, serveDNS(spec.Zone, report)
	}
	return execute(spec)
}

// execute replaces the process. It returns only if that failed.
func execute(spec shimSpec) (int, error) {
	if err := os.Chdir(orRoot(spec.Dir)); err != nil {
		return exitSetup, err
	}
	path, err := exec.LookPath(spec.Argv[0])
	if errors.Is(err, fs.ErrPermission) {
		return exitNotExecutable, fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	if err != nil {
		return exitNotFound, fmt.Errorf("start %s: %w", spec.Argv[0], err)
	}
	err = syscall.Exec(path, spec.Argv, os.Environ())
	if errors.Is(err, fs.ErrNotExist) {
		return exitNotFound, fmt.Errorf("start %s: %w", path, err)
	}
	return exitNotExecutable, fmt.Errorf("start %s: %w", path, err)
}

func orRoot(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// privateFiles gives the calling thread its own mount and UTS namespaces, in which the files in etc lie over those of
// the same name in /etc. The machine's own mounts still arrive there; nothing leaves.
func privateFiles(etc, hostname string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare mount and UTS namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set host name %q: %w", hostname, err)
	}
	for _, name := range []string{"resolv.conf", "hosts", "hostname"} {
		target, err := filepath.EvalSymlinks(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) && name == "hostname" {
			continue // nothing on this machine reads it
		}
		if err != nil {
			return fmt.Errorf("replace /etc/%s, which must exist: %w", name, err)
		}
		if err := unix.Mount(filepath.Join(etc, name), target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("replace %s: %w", target, err)
		}
	}
	return nil
}
