package meshtest

import (
	"context"
	"log/slog"
	"testing"
)

// errorsFail fails the test for every error that a node logs: a handler that panicked is one.
type errorsFail struct{ tb testing.TB }

func (h errorsFail) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }

func (h errorsFail) Handle(_ context.Context, r slog.Record) error {
	h.tb.Errorf("a node logged an error: %s", r.Message)
	r.Attrs(func(a slog.Attr) bool {
		h.tb.Logf("  %s: %s", a.Key, a.Value)
		return true
	})
	return nil
}

func (h errorsFail) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h errorsFail) WithGroup(string) slog.Handler      { return h }
