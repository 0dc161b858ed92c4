package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"golang.org/x/sys/unix"
)

// maxLog is the size at which the log file becomes the old one.
const maxLog = 1 << 20

// logged reads a call, runs it, and writes what came of it into the log file, if there is one.
func (p Plugin) logged(command string, run func(*request) (string, error)) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		started := time.Now()
		r, err := parse(args.StdinData)
		if err != nil {
			return err
		}
		r.pod, r.podErr = podOf(args.Args)
		r.netns = args.Netns
		note, err := run(r)
		if r.conf.Log != "" {
			line := fmt.Sprintf("%s %s pod=%s uid=%s container=%s took=%s ", started.UTC().Format(time.RFC3339), command,
				r.pod, r.pod.uid, args.ContainerID, time.Since(started).Round(time.Millisecond))
			if err != nil {
				line += fmt.Sprintf("failed=%+q", err.Error())
			} else {
				line += fmt.Sprintf("ok=%+q", note)
			}
			appendLog(r.conf.Log, line)
		}
		return err
	}
}

// appendLog adds a line in one write, so that lines of processes at the same time do not mix. A log that cannot be
// written is no reason to fail a pod, and the standard error is the only other place.
func appendLog(path, line string) {
	if info, err := os.Lstat(path); err == nil && info.Size() > maxLog {
		_ = os.Rename(path, path+".old") // of two that see it at once, the second fails or moves a short one
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		fmt.Fprintf(os.Stderr, "warren-cni: log: %v\n", err)
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		fmt.Fprintf(os.Stderr, "warren-cni: log: %v\n", err)
		return
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		fmt.Fprintf(os.Stderr, "warren-cni: log: %v\n", err)
	}
}
