// Package logging makes the logger that every binary of ours writes with.
package logging

import (
	"fmt"
	"io"
	"log/slog"
)

// New returns a logger that writes to w. Level is debug, info, warn or error; format is text or json.
func New(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: it is one of debug, info, warn, error", level)
	}
	opts, to := &slog.HandlerOptions{Level: l}, &lines{w: w}
	switch format {
	case "text":
		return slog.New(&handler{slog.NewTextHandler(to, opts), to}), nil
	case "json":
		return slog.New(&handler{slog.NewJSONHandler(to, opts), to}), nil
	}
	return nil, fmt.Errorf("log format %q: it is text or json", format)
}
