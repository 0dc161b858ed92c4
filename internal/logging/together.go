package logging

import (
	"io"
	"log/slog"
	"sync"
)

// maxTogether is the most that Together writes at once, in bytes: a pipe does not mix so much with what others write
// (PIPE_BUF, pipe(7)).
const maxTogether = 4096

// Together calls f, and has what is logged meanwhile by h's logger leave by few writes, the last one when f returns. A
// handler that is not of this package's making writes each line as ever.
func Together(h slog.Handler, f func()) {
	if own, ok := h.(*handler); ok {
		own.lines.hold()
		defer own.lines.release()
	}
	f()
}

// handler is a handler of slog's over lines.
type handler struct {
	slog.Handler
	lines *lines
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.lines}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.lines}
}

// lines passes whole lines on, one by one or, while it is held, as many at once as fit.
type lines struct {
	w io.Writer

	mu   sync.Mutex
	held int // Together calls that go on
	kept []byte
}

// Write takes one line.
func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.kept)+len(line) > maxTogether {
		l.flush()
	}
	if l.held == 0 || len(line) > maxTogether {
		return l.w.Write(line)
	}
	l.kept = append(l.kept, line...)
	return len(line), nil
}

func (l *lines) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held++
}

func (l *lines) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held--
	l.flush()
}

// flush writes what is kept. As slog does, it drops what cannot be written: there is nowhere to say it. The caller holds mu.
func (l *lines) flush() {
	if len(l.kept) > 0 {
		_, _ = l.w.Write(l.kept)
		l.kept = l.kept[:0]
	}
}
