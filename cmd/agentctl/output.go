package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// The output formats. JSON and YAML are the proto3 JSON mapping of the answer: 64-bit integers are strings.
const (
	formatTable   = "table"
	formatWide    = "wide"
	formatCompact = "compact"
	formatJSON    = "json"
	formatYAML    = "yaml"
)

// outputFlag adds -o with the formats that a command has; the first is the default.
func outputFlag(cmd *cobra.Command, formats ...string) *choice {
	c := newChoice(formats[0], formats...)
	cmd.Flags().VarP(&c, "output", "o", "output format")
	_ = cmd.RegisterFlagCompletionFunc("output", c.complete)
	return &c
}

// listFormats are those of commands that print tables.
func listFormats(cmd *cobra.Command) *choice {
	return outputFlag(cmd, formatTable, formatWide, formatJSON, formatYAML)
}

// machine says whether a format is for programs.
func (c *choice) machine() bool { return c.value == formatJSON || c.value == formatYAML }

// wide says whether a table shows every column.
func (c *choice) wide() bool { return c.value == formatWide }

// emit writes v, a proto message or a value with JSON tags, as indented JSON or as YAML.
func (a *app) emit(format string, v any) error {
	raw, err := toJSON(v)
	if err != nil {
		return err
	}
	if format == formatYAML {
		out, err := yaml.JSONToYAML(raw)
		if err != nil {
			return fmt.Errorf("convert the answer to YAML: %w", err)
		}
		return a.writeAll(out)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return fmt.Errorf("indent the answer: %w", err)
	}
	out.WriteByte('\n')
	return a.writeAll(out.Bytes())
}

// emitOne writes one item of a stream: a line of JSON, or a YAML document after a "---".
func (a *app) emitOne(format string, m proto.Message) error {
	if format == formatYAML {
		if _, err := io.WriteString(a.stdout, "---\n"); err != nil {
			return fmt.Errorf("write the output: %w", err)
		}
		return a.emit(format, m)
	}
	raw, err := toJSON(m)
	if err != nil {
		return err
	}
	return a.writeAll(append(raw, '\n'))
}

func (a *app) writeAll(out []byte) error {
	if _, err := a.stdout.Write(out); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// toJSON is compact, stable JSON in which nothing can drive a terminal.
func toJSON(v any) ([]byte, error) {
	var raw []byte
	var err error
	if m, ok := v.(proto.Message); ok {
		raw, err = protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	} else {
		raw, err = json.Marshal(v)
	}
	if err != nil {
		return nil, fmt.Errorf("convert the answer to JSON: %w", err)
	}
	// protojson varies its white space on purpose.
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, fmt.Errorf("compact the answer: %w", err)
	}
	return escapeJSON(compact.Bytes()), nil
}

// escapeJSON replaces what JSON allows raw in a string but a terminal may obey (C1 controls, DEL, text direction) by
// its \u escape. JSON has no such characters outside strings.
func escapeJSON(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		r, size := utf8.DecodeRune(raw)
		if r < unicode.MaxASCII || unicode.IsPrint(r) || r > 0xffff {
			out = append(out, raw[:size]...)
		} else {
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		raw = raw[size:]
	}
	return out
}

// clean makes a foreign string harmless and one line: what is not printable becomes an escape such as \x1b.
func clean(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var out strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, s[0])
		case unicode.IsPrint(r):
			out.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&out, `\x%02x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		s = s[size:]
	}
	return out.String()
}
