package manifest

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxUnsettled bounds how often the first result waits for files that are being written.
const maxUnsettled = 20

// Watcher loads manifests again whenever they change.
type Watcher struct {
	loader *Loader
	log    *slog.Logger
}

// NewWatcher returns a watcher of cfg's files.
func NewWatcher(cfg Config, log *slog.Logger) *Watcher {
	return &Watcher{loader: NewLoader(cfg), log: log}
}

// Run calls changed with the first result and then after every change, until ctx ends. Notifications are collected
// for Config.Settle; without any, everything is looked at every Config.Rescan. Returns ctx's error.
func (w *Watcher) Run(ctx context.Context, changed func(Result)) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("cannot be notified of changed manifests; they are looked at on a timer", "err", err, "every", w.loader.cfg.Rescan)
		return w.loop(ctx, nil, func() {}, changed)
	}
	defer notify.Close()
	return w.loop(ctx, notify.Events, func() { w.watchFolders(notify) }, changed)
}

// loop reloads when events fell silent for Settle, or when Rescan passed. A nil events means no notification.
func (w *Watcher) loop(ctx context.Context, events <-chan fsnotify.Event, rewatch func(), changed func(Result)) error {
	cfg := w.loader.cfg
	timer := time.NewTimer(0)
	defer timer.Stop()
	pending := false // a reload is due within Settle: more events do not put it off for ever
	first, last, unsettled := true, uint64(0), 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if !pending && w.concerns(event.Name) {
				pending = true
				timer.Reset(cfg.Settle)
			}
			continue
		case <-timer.C:
		}
		pending = false
		rewatch() // before the load: what changes after it is notified
		res := w.loader.Load()
		if unsettled++; !res.Unsettled {
			unsettled = 0
		}
		waiting := first && unsettled > 0 && unsettled < maxUnsettled
		if !waiting && (first || res.Generation != last) {
			first, last = false, res.Generation
			changed(res)
		}
		if res.Unsettled {
			pending = true
			timer.Reset(cfg.Settle)
		} else {
			timer.Reset(cfg.Rescan)
		}
	}
}

// concerns tells whether an event is about one of our roots: the folder that holds a root is watched too.
func (w *Watcher) concerns(name string) bool {
	for _, root := range w.roots() {
		resolved, err := filepath.EvalSymlinks(root)
		if err != nil {
			resolved = root
		}
		for _, r := range []string{filepath.Clean(root), resolved} {
			if name == r || strings.HasPrefix(name, r+string(filepath.Separator)) {
				return true
			}
		}
	}
	return false
}

func (w *Watcher) roots() []string {
	return append(append([]string(nil), w.loader.cfg.Roots...), w.loader.cfg.StatusRoots...)
}

// watchFolders watches every folder that holds a manifest, and the folder of every root, so that a root that is
// replaced or made later is seen. fsnotify ignores what it watches already.
func (w *Watcher) watchFolders(notify *fsnotify.Watcher) {
	add := func(dir string) {
		if err := notify.Add(dir); err != nil {
			w.log.Debug("cannot watch a folder of manifests; it is looked at on a timer", "dir", dir, "err", err)
		}
	}
	for _, root := range w.roots() {
		add(filepath.Dir(root))
		resolved, err := filepath.EvalSymlinks(root)
		if err != nil {
			continue
		}
		if info, err := os.Stat(resolved); err != nil || !info.IsDir() {
			add(filepath.Dir(resolved))
			continue
		}
		err = filepath.WalkDir(resolved, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if e.IsDir() {
				if path != resolved && strings.HasPrefix(e.Name(), ".") {
					return fs.SkipDir
				}
				add(path)
			}
			return nil
		})
		if err != nil {
			w.log.Debug("cannot walk a folder of manifests", "dir", resolved, "err", err)
		}
	}
}
