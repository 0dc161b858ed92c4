package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	maxFiles = 4096
	// maxFolders bounds how deep folders are searched.
	maxFolders = 8
)

// Config says what is read.
type Config struct {
	// Roots are files and folders. Folders are searched for *.yaml, *.yml and *.json; names that start with a dot
	// are skipped.
	Roots []string
	// StatusRoots are like Roots, but their objects only add to objects of the same kind, namespace and name what a
	// kubelet or an allocator knows: see overlay.
	StatusRoots []string
	// Settle is how long a file must have been left alone before it is read, so that a half-written one is not.
	// Writers that take longer than this must write aside and rename. The default is 100 ms.
	Settle time.Duration
	// KeepDir is where a copy of every file's last good content is kept, so that a file which is bad when the
	// controller starts does not take back what it said. Empty keeps none.
	KeepDir string
	// Rescan is how often everything is looked at even if no change was notified. The default is 10 s.
	Rescan time.Duration
}

// Result is what the manifests say now.
type Result struct {
	// Objects are sorted by kind, namespace and name.
	Objects []*Object
	// Rejected are errors about files and objects, one line each, sorted. The last good content of a rejected file
	// is among Objects.
	Rejected []string
	Ignored  []Ignored
	// Incomplete is true if a root was never listed: what it holds is not known, which is not the same as nothing.
	Incomplete bool
	// Unsettled is true if a file was written too recently to be read.
	Unsettled bool
	// Generation changes whenever anything above may have changed.
	Generation uint64
}

// Loader remembers the last good content of every file. It is not safe for concurrent use.
type Loader struct {
	cfg   Config
	files map[string]*file // by path
	gen   uint64
	roots map[string]*root
}

// root is what is known about one root.
type root struct {
	listed bool // at least once
	failed bool // the last time
}

// file is what is known about one file.
type file struct {
	root  string
	stamp stamp
	good  parsed // the last good content
	read  bool   // good is the last good content, if there ever was one
	err   error  // why the content at stamp was rejected, nil if it is good
}

// stamp tells one content of a file from the next.
type stamp struct {
	size  int64
	mtime time.Time
	inode uint64
}

// NewLoader returns a loader that has read nothing yet.
func NewLoader(cfg Config) *Loader {
	cfg.Settle = cmp.Or(cfg.Settle, 100*time.Millisecond)
	cfg.Rescan = cmp.Or(cfg.Rescan, 10*time.Second)
	return &Loader{cfg: cfg, files: make(map[string]*file), roots: make(map[string]*root)}
}

// Load reads what changed since the last call. It never fails as a whole: what cannot be read is in Rejected.
func (l *Loader) Load() Result {
	var res Result
	main := l.readRoots(l.cfg.Roots, &res)
	status := l.readRoots(l.cfg.StatusRoots, &res)
	res.Objects = l.merge(main, &res)
	res.Objects = overlay(res.Objects, l.merge(status, &res), &res)
	slices.SortFunc(res.Objects, func(a, b *Object) int { return CompareKeys(a.Key, b.Key) })
	slices.Sort(res.Rejected)
	res.Rejected = slices.Compact(res.Rejected)
	res.Generation = l.gen
	return res
}

// readRoots reads every file under roots and returns their paths in order.
func (l *Loader) readRoots(roots []string, res *Result) []string {
	var paths []string
	for _, root := range roots {
		found, err := findFiles(root)
		l.noteRoot(root, err, res)
		if err != nil {
			// What was there stays in force: a folder that cannot be listed is not an empty folder.
			res.Rejected = append(res.Rejected, fmt.Sprintf("%s: %v; what was read from it before stays in force", root, err))
			found = l.known(root)
		}
		l.forget(root, found)
		for _, path := range found {
			l.readFile(root, path, res)
		}
		paths = append(paths, found...)
	}
	return paths
}

func (l *Loader) noteRoot(path string, err error, res *Result) {
	r := l.roots[path]
	if r == nil {
		r = &root{}
		l.roots[path] = r
	}
	if (err != nil) != r.failed {
		l.gen++
	}
	r.failed = err != nil
	r.listed = r.listed || err == nil
	res.Incomplete = res.Incomplete || !r.listed
}

func (l *Loader) known(root string) []string {
	var paths []string
	for path, f := range l.files {
		if f.root == root {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// forget drops files that are gone from root.
func (l *Loader) forget(root string, found []string) {
	keep := make(map[string]bool, len(found))
	for _, path := range found {
		keep[path] = true
	}
	for path, f := range l.files {
		if f.root == root && !keep[path] {
			delete(l.files, path)
			l.dropKept(path)
			l.gen++
		}
	}
}

// readFile brings l.files[path] up to date.
func (l *Loader) readFile(root, path string, res *Result) {
	f := l.files[path]
	if f == nil {
		f = &file{root: root}
		l.files[path] = f
	}
	now, data, err := readStable(path, f.stamp, l.cfg.Settle)
	switch {
	case errors.Is(err, errUnsettled):
		res.Unsettled = true
	case errors.Is(err, errUnchanged):
	case err != nil:
		l.failed(f, path, stamp{}, fmt.Errorf("%s: %w", path, err))
	default:
		l.gen++
		content, err := parse(path, data)
		if err != nil {
			l.failed(f, path, now, err)
			break
		}
		f.stamp, f.good, f.read, f.err = now, content, true, nil
		if err := l.keep(path, data); err != nil {
			res.Rejected = append(res.Rejected, err.Error())
		}
	}
	if f.err != nil {
		res.Rejected = append(res.Rejected, f.err.Error())
	}
	res.Ignored = append(res.Ignored, f.good.ignored...)
}

// failed notes that a file's content is not good. The first time, what an earlier run kept takes its place.
func (l *Loader) failed(f *file, path string, now stamp, err error) {
	if f.err == nil || f.err.Error() != err.Error() {
		l.gen++
	}
	f.stamp, f.err = now, err
	if !f.read {
		f.read = true
		f.good = l.kept(path)
	}
}

var (
	errUnsettled = errors.New("written to just now")
	errUnchanged = errors.New("unchanged")
)

// readStable reads a whole file whose content is not the one at old. Returns errUnchanged if it is, and errUnsettled
// if the file was written to within settle or while it was read.
func readStable(path string, old stamp, settle time.Duration) (stamp, []byte, error) {
	fd, err := os.Open(path)
	if err != nil {
		return stamp{}, nil, err
	}
	defer fd.Close()
	before, info, err := stampOf(fd)
	if err != nil {
		return stamp{}, nil, err
	}
	if !info.Mode().IsRegular() {
		return stamp{}, nil, errors.New("not a regular file")
	}
	if before == old {
		return before, nil, errUnchanged
	}
	if age := time.Since(before.mtime); age >= 0 && age < settle {
		return before, nil, errUnsettled
	}
	data, err := io.ReadAll(io.LimitReader(fd, maxFileBytes+1))
	if err != nil {
		return stamp{}, nil, err
	}
	if after, _, err := stampOf(fd); err != nil || after != before {
		return before, nil, errUnsettled
	}
	return before, data, nil
}

// findFiles lists the manifests of a root, sorted. A symbolic link to a file is followed, one to a folder only if it
// is the root itself: a ConfigMap volume links its files through "..data".
func findFiles(root string) ([]string, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{root}, nil
	}
	resolved, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	var paths []string
	err = filepath.WalkDir(resolved, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(resolved, path)
		if err != nil || rel == "." {
			return err
		}
		if e.IsDir() && (strings.HasPrefix(e.Name(), ".") || strings.Count(rel, string(filepath.Separator)) >= maxFolders) {
			return fs.SkipDir
		}
		if !e.IsDir() && isManifest(path, e) {
			paths = append(paths, filepath.Join(root, rel))
		}
		if len(paths) > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		return nil
	})
	return paths, err
}

func isManifest(path string, e fs.DirEntry) bool {
	if strings.HasPrefix(e.Name(), ".") {
		return false
	}
	switch filepath.Ext(e.Name()) {
	case ".yaml", ".yml", ".json":
	default:
		return false
	}
	if e.Type()&fs.ModeSymlink == 0 {
		return e.Type().IsRegular()
	}
	info, err := os.Stat(path)
	return err != nil || info.Mode().IsRegular() // a broken link is reported when it is read
}
