package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// style is what a cell means; colour follows from it.
type style int

const (
	plain style = iota
	good
	warn
	bad
	dim
	bold
)

// sgr are the ANSI "select graphic rendition" parameters of the styles (ECMA-48, 8.3.117).
func (s style) sgr() string {
	switch s {
	case good:
		return "32"
	case warn:
		return "33"
	case bad:
		return "31"
	case dim:
		return "2"
	case bold:
		return "1"
	}
	return ""
}

// colored says whether stdout gets colour: on a terminal, unless NO_COLOR is set (https://no-color.org) or it is dumb.
func (a *app) colored() bool {
	switch a.color.value {
	case "always":
		return true
	case "never":
		return false
	}
	return a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && a.isTerminal(a.stdout)
}

// paint colours text that is already clean.
func (a *app) paint(s style, text string) string {
	if s == plain || !a.colored() {
		return text
	}
	return "\x1b[" + s.sgr() + "m" + text + "\x1b[0m"
}

// printf writes a line of prose to stdout. Foreign strings among args must be clean.
func (a *app) printf(format string, args ...any) {
	fmt.Fprintf(a.stdout, format, args...)
}

// cell is one field of a table. An empty text prints as "-".
type cell struct {
	text  string
	style style
}

// cells makes plain cells.
func cells(texts ...string) []cell {
	row := make([]cell, len(texts))
	for i, t := range texts {
		row[i].text = t
	}
	return row
}

// maxCell bounds a cell in characters; -o yaml shows everything.
const maxCell = 200

// fit is what is printed of a cell.
func (c cell) fit() string {
	text := clean(c.text)
	if text == "" {
		return "-"
	}
	if utf8.RuneCountInString(text) > maxCell {
		return string([]rune(text)[:maxCell-1]) + "…"
	}
	return text
}

// gap is the space between columns, as in kubectl.
const gap = 3

// table aligns rows that are all known, as kubectl does.
type table struct {
	header []string
	rows   [][]cell
}

func (t *table) add(row ...cell) { t.rows = append(t.rows, row) }

// write prints the header and rows, indented by indent.
func (t *table) write(a *app, indent string) error {
	c := columns{app: a, indent: indent, widths: make([]int, len(t.header))}
	head := cells(t.header...)
	c.grow(head)
	for _, row := range t.rows {
		c.grow(row)
	}
	if err := c.write(head); err != nil {
		return err
	}
	for _, row := range t.rows {
		if err := c.write(row); err != nil {
			return err
		}
	}
	return nil
}

// columns prints rows one at a time. A column starts at a given width and only ever grows, so that a stream of rows
// keeps its shape.
type columns struct {
	*app
	indent string
	widths []int
}

func (c *columns) grow(row []cell) {
	for i, cell := range row {
		c.widths[i] = max(c.widths[i], utf8.RuneCountInString(cell.fit()))
	}
}

// write prints one row. Nothing follows the last field.
func (c *columns) write(row []cell) error {
	c.grow(row)
	var line strings.Builder
	line.WriteString(c.indent)
	for i, cell := range row {
		text := cell.fit()
		line.WriteString(c.paint(cell.style, text))
		if i < len(row)-1 {
			line.WriteString(strings.Repeat(" ", c.widths[i]-utf8.RuneCountInString(text)+gap))
		}
	}
	line.WriteByte('\n')
	if _, err := io.WriteString(c.stdout, line.String()); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
