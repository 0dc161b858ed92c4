package cnichain

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// maxConf bounds a configuration that is read; real ones have a few kilobytes.
	maxConf = 1 << 20
	// maxConfs bounds their number.
	maxConfs = 256
	// tempPrefix and tempSuffix enclose the name of a file that is not ready: no runtime looks at ".tmp".
	tempPrefix, tempSuffix = ".warren-", ".tmp"
)

// errChanged says that somebody wrote a file after it was read.
var errChanged = errors.New("another program is writing it")

// readDir reads every configuration of a directory. Links are followed inside the directory only: outside of it the
// agent sees other files than the host does.
func readDir(root *os.Root) (map[string]file, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	dir := map[string]file{}
	for _, e := range entries {
		if !isConf(e.Name()) || e.IsDir() {
			continue
		}
		if len(dir) == maxConfs {
			return nil, fmt.Errorf("more than %d configurations", maxConfs)
		}
		f := file{link: e.Type()&fs.ModeSymlink != 0}
		f.text, f.err = readFile(root, e.Name())
		if errors.Is(f.err, fs.ErrNotExist) && !f.link {
			continue // gone since the directory was read
		}
		if f.err != nil && f.link {
			f.err = fmt.Errorf("it is a symbolic link that cannot be followed inside its directory: %w", f.err)
		}
		dir[e.Name()] = f
	}
	return dir, nil
}

// readFile reads a regular file; one of another kind does not block it.
func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err == nil && len(text) > maxConf {
		err = fmt.Errorf("it has more than %d bytes", maxConf)
	}
	return text, err
}

// apply carries a plan out. was is what it was made of.
func apply(root *os.Root, p plan, was map[string]file) error {
	for name, text := range p.write {
		if err := replace(root, name, text, was[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, name := range p.drop {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if p.nothingToDo() {
		return nil
	}
	return syncDir(root)
}

// replace puts a configuration in place in one step, with the mode and owner of the one before, unless that is no
// longer what it was.
func replace(root *os.Root, name string, text []byte, was file) error {
	mode, uid, gid := fs.FileMode(0o644), -1, -1
	if info, err := root.Stat(name); err == nil {
		mode = info.Mode().Perm()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(st.Uid), int(st.Gid)
		}
	}
	temp, err := writeTemp(root, bytes.NewReader(text), mode)
	if err != nil {
		return err
	}
	if uid >= 0 {
		_ = root.Lchown(temp, uid, gid) // needs a right that an agent may lack, for an owner that is hardly ever another
	}
	now, err := readFile(root, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) || !bytes.Equal(now, was.text) {
		return errors.Join(errChanged, root.Remove(temp))
	}
	if err := root.Rename(temp, name); err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	return nil
}

// writeTemp writes a file that nobody looks at, down to the disk: a node that loses power has the old or the new one.
func writeTemp(root *os.Root, content io.Reader, mode fs.FileMode) (name string, err error) {
	name = tempPrefix + rand.Text() + tempSuffix
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", errors.Join(err, root.Remove(name))
	}
	return name, nil
}

func syncDir(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sweep removes what an agent left that was killed while it wrote.
func sweep(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, e := range entries {
		if isTemp(e.Name()) {
			err = errors.Join(err, root.Remove(e.Name()))
		}
	}
	return err
}

// binary is the plug-in's file. It remembers what it has compared, as files of ten megabytes are not read twice.
type binary struct {
	from, dir, name string
	same            [2]stamp
}

// stamp changes whenever a file's content or mode does.
type stamp struct {
	dev, ino    uint64
	size        int64
	mtime, when syscall.Timespec
}

func stampOf(info fs.FileInfo) stamp {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, when: st.Ctim}
}

// install copies the plug-in if it is missing or another. Whoever executes the old one meanwhile goes on with it.
func (b *binary) install() (changed bool, err error) {
	src, err := os.Open(b.from)
	if err != nil {
		return false, fmt.Errorf("the plug-in that comes with the agent: %w", err)
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return false, err
	}
	root, err := os.OpenRoot(b.dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	if b.same == [2]stamp{} { // the first time
		if err := sweep(root); err != nil {
			return false, err
		}
	}
	if there, err := root.Lstat(b.name); err == nil {
		if b.same == [2]stamp{stampOf(info), stampOf(there)} || there.Mode() == 0o755 && sameContent(src, root, b.name) {
			b.same = [2]stamp{stampOf(info), stampOf(there)}
			return false, nil
		}
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	temp, err := writeTemp(root, src, 0o755)
	if err != nil {
		return false, err
	}
	if err := root.Rename(temp, b.name); err != nil {
		return false, errors.Join(err, root.Remove(temp))
	}
	return true, syncDir(root)
}

func sameContent(src io.Reader, root *os.Root, name string) bool {
	dst, err := root.Open(name)
	if err != nil {
		return false
	}
	defer dst.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err1 := io.ReadFull(src, x)
		m, err2 := io.ReadFull(dst, y)
		if n != m || !bytes.Equal(x[:n], y[:m]) {
			return false
		}
		if err1 != nil || err2 != nil {
			return isEnd(err1) && isEnd(err2)
		}
	}
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// remove deletes the plug-in, and what half a copy left.
func (b *binary) remove() error {
	root, err := os.OpenRoot(b.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	err = sweep(root)
	if rerr := root.Remove(b.name); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(b.dir, b.name), err)
	}
	return nil
}

func isTemp(path string) bool {
	name := filepath.Base(path)
	return strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}
