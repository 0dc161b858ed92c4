package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onThread runs fn on an operating-system thread of its own and waits for it. The thread ends with fn, so whatever fn
// did to it (setns, unshare) is gone with it.
func onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The runtime parks the main thread instead of ending it, and /proc/self describes it: keep it out of
			// this by holding it while another thread does the work.
			defer runtime.UnlockOSThread()
			result <- onThread(fn)
			return
		}
		result <- fn()
	}()
	return <-result
}

// createNetNS makes a network namespace with its loopback up, kept alive by a bind mount at path.
// Sysctls are "key=value" with the key relative to /proc/sys/net, written before any link exists.
func createNetNS(path string, sysctls ...string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	_ = f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind mount: %w", err)
		}
		return prepareNetNS(sysctls)
	})
	if err != nil {
		return fmt.Errorf("create network namespace %s: %w", path, errors.Join(err, deleteNetNS(path)))
	}
	return nil
}

func prepareNetNS(sysctls []string) error {
	if err := setSysctls(sysctls); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// setSysctls writes to the network namespace of the calling thread.
func setSysctls(sysctls []string) error {
	for _, kv := range sysctls {
		key, value, _ := strings.Cut(kv, "=")
		if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s: %w", kv, err)
		}
	}
	return nil
}

// deleteNetNS removes the bind mount and its file. The namespace goes when nothing else holds it. Deleting what is
// not there is not an error.
func deleteNetNS(path string) error {
	for {
		// Twice mounted is possible if somebody mounted over it; EINVAL says that nothing is mounted any more.
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err == nil {
			continue
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete network namespace %s: unmount: %w", path, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete network namespace: %w", err)
	}
	return nil
}

// enterNetNS moves the calling thread, which must be locked, into the namespace at path.
func enterNetNS(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// inNetNS runs fn on a thread inside the namespace at path.
func inNetNS(path string, fn func() error) error {
	return onThread(func() error {
		if err := enterNetNS(path); err != nil {
			return err
		}
		return fn()
	})
}
