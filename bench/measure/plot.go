package measure

import (
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Sizes of a plot, pixels.
const (
	plotLabel  = 210 // room for a row's name
	plotBar    = 380 // the longest bar
	plotValue  = 110 // room for its figure
	plotLine   = 24  // height of a row
	plotHead   = 44
	plotMargin = 12
)

// WritePlots writes an SVG for each figure of a scenario that is to be drawn, named <scenario>-<unit>.svg, and returns
// their names.
func (r *Report) WritePlots(dir string) (names []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, sc := range r.Scenarios {
		for _, c := range sc.Columns {
			if !c.Plot {
				continue
			}
			var text strings.Builder
			if err := r.writePlot(&text, sc, c); err != nil {
				return names, err
			}
			name := filepath.Join(dir, sc.Name+"-"+strings.ReplaceAll(string(c.Unit), "/", "-per-")+".svg")
			if err := os.WriteFile(name, []byte(text.String()), 0o644); err != nil {
				return names, err
			}
			names = append(names, name)
		}
	}
	return names, nil
}

// writePlot draws a bar for each row, the median, with a line from the smallest round to the largest. Colours are legible
// on light and dark ground alike.
func (r *Report) writePlot(out io.Writer, sc Scenario, c Column) error {
	top := 0.0
	for _, row := range r.Rows {
		if s := r.Of(sc.Name, row.Name); s != nil {
			top = max(top, s.Figures[c.Unit].Max)
		}
	}
	width, height := plotLabel+plotBar+plotValue+2*plotMargin, plotHead+plotLine*len(r.Rows)+plotMargin
	w := &svg{out: out}
	w.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#777">`+"\n",
		width, height, width, height)
	w.text(plotMargin, 18, "start", sc.Title)
	w.text(plotMargin, 34, "start", fmt.Sprintf("%s, median of %d rounds, line: smallest to largest", c.Title, r.Rounds))
	for i, row := range r.Rows {
		w.bar(plotHead+plotLine*i, row, r.Of(sc.Name, row.Name), c.Unit, top)
	}
	w.printf("</svg>\n")
	return w.err
}

// svg writes until an error.
type svg struct {
	out io.Writer
	err error
}

func (w *svg) printf(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.out, format, args...)
	}
}

func (w *svg) text(x, y int, anchor, s string) {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(s)) // a strings.Builder takes everything
	w.printf(`<text x="%d" y="%d" text-anchor="%s">%s</text>`+"\n", x, y, anchor, escaped.String())
}

func (w *svg) bar(y int, row Row, s *Summary, u Unit, top float64) {
	const left, inset = plotMargin + plotLabel, 4
	middle := y + plotLine/2
	w.text(left-8, middle+inset, "end", row.Name)
	f, ok := Spread{}, false
	if s != nil {
		f, ok = s.Figures[u]
	}
	if !ok || top <= 0 {
		w.text(left, middle+inset, "start", "not measured")
		return
	}
	colour := "#b4bcc6"
	if strings.HasPrefix(row.Name, "warren") || strings.HasPrefix(row.Name, "waypoint") {
		colour = "#d9762b"
	}
	at := func(v float64) int { return left + int(v/top*plotBar) }
	w.printf(`<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", left, y+inset, max(at(f.Median)-left, 1), plotLine-2*inset, colour)
	w.printf(`<path d="M%d %dH%d" stroke="#666" stroke-width="1.5"/>`+"\n", at(f.Min), middle, at(f.Max))
	w.text(at(f.Max)+6, middle+inset, "start", format(f.Median, true))
}
