package cnichain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/warren-mesh/warren/cni/netconf"
)

// The texts below are configurations of others. They are never decoded and encoded again, only cut at the elements of
// their list of plug-ins: what we do not know stays, in its order and with its spaces, and taking our element out
// gives back what was there, to the byte.

// span is a part of a text.
type span struct{ from, to int }

// list is a configuration with a list of plug-ins, parsed as far as we need it.
type list struct {
	text    []byte
	plugins []span
	ours    []int // of plugins, those that are Warren's
}

// head are the fields of a configuration that decide whether we can be chained to it.
type head struct {
	Name        string   `json:"name"`
	CNIVersion  string   `json:"cniVersion"`
	CNIVersions []string `json:"cniVersions"`
	Type        string   `json:"type"`
}

// parseList reads a conflist.
func parseList(text []byte) (*list, error) {
	fields, err := topLevel(text)
	if err != nil {
		return nil, err
	}
	where, ok := fields["plugins"]
	if !ok {
		return nil, errors.New("it has no list of plug-ins to be chained to")
	}
	l := &list{text: text}
	dec := json.NewDecoder(bytes.NewReader(text[where.from:where.to]))
	if open, err := dec.Token(); err != nil || open != json.Delim('[') {
		return nil, errors.New("plugins: it is not a list")
	}
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("plugins: %w", err)
		}
		var p head
		if err := json.Unmarshal(raw, &p); err != nil || p.Type == "" {
			return nil, fmt.Errorf("plugins: element %d: it has no type", len(l.plugins))
		}
		if p.Type == netconf.Type {
			l.ours = append(l.ours, len(l.plugins))
		}
		to := where.from + int(dec.InputOffset())
		l.plugins = append(l.plugins, span{from: to - len(raw), to: to})
	}
	return l, nil
}

// topLevel finds the values of an object's keys.
func topLevel(text []byte) (map[string]span, error) {
	if !json.Valid(text) {
		var v any
		return nil, fmt.Errorf("it is not valid JSON: %w", json.Unmarshal(text, &v))
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	fields := map[string]span{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key := token.(string) // valid JSON: between values of an object are keys
		if _, twice := fields[key]; twice {
			return nil, fmt.Errorf("it has the key %.40q twice", key)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		to := int(dec.InputOffset())
		fields[key] = span{from: to - len(raw), to: to}
	}
	return fields, nil
}

// hasOther tells whether a plug-in is there that is not ours.
func (l *list) hasOther() bool { return len(l.plugins) > len(l.ours) }

// asWanted tells whether our element is there once, as it should be, after another.
func (l *list) asWanted(entry json.RawMessage) bool {
	return len(l.ours) == 1 && l.ours[0] > 0 && bytes.Equal(compact(l.cut(l.ours[0])), compact(entry))
}

func (l *list) cut(i int) []byte { return l.text[l.plugins[i].from:l.plugins[i].to] }

func compact(raw []byte) []byte {
	var b bytes.Buffer
	_ = json.Compact(&b, raw) // raw was part of valid JSON
	return b.Bytes()
}

// without is the text with our elements taken out, each with what separates it from the one before.
func (l *list) without() []byte {
	if len(l.ours) == 0 {
		return slices.Clone(l.text)
	}
	out := slices.Clone(l.text[:l.plugins[0].from])
	first := true
	for i, p := range l.plugins {
		if slices.Contains(l.ours, i) {
			continue
		}
		if !first {
			out = append(out, l.text[l.plugins[i-1].to:p.from]...)
		}
		first = false
		out = append(out, l.cut(i)...)
	}
	return append(out, l.text[l.plugins[len(l.plugins)-1].to:]...)
}

// insert returns a conflist with our element as the last one and nowhere else; the text as it is if it is as it
// should be.
func insert(text []byte, entry json.RawMessage) ([]byte, error) {
	l, err := parseList(text)
	if err != nil {
		return nil, err
	}
	if err := chainable(text); err != nil {
		return nil, err
	}
	if !l.hasOther() {
		return nil, errors.New("it has no plug-in beside Warren's")
	}
	if l.asWanted(entry) {
		return text, nil
	}
	clean := l.without()
	if l, err = parseList(clean); err != nil {
		return nil, err
	}
	end := l.plugins[len(l.plugins)-1].to
	return slices.Insert(clean, end, append([]byte(","+l.space()), entry...)...), nil
}

// space is what stands before the first plug-in, so that ours is set as the others are.
func (l *list) space() string {
	before := string(l.text[:l.plugins[0].from])
	return before[len(strings.TrimRight(before, " \t\r\n")):]
}

// remove returns a configuration without our element, and whether there was one.
func remove(text []byte) ([]byte, bool, error) {
	l, err := parseList(text)
	if err != nil {
		return nil, false, err
	}
	return l.without(), len(l.ours) > 0, nil
}

// wrap makes a conflist of a configuration of one plug-in, which stays as it is inside, as the runtime itself does
// it.
func wrap(text []byte, entry json.RawMessage) ([]byte, error) {
	fields, err := topLevel(text)
	if err != nil {
		return nil, err
	}
	if _, ok := fields["plugins"]; ok {
		return nil, errors.New("it is a list of plug-ins, which only a file named .conflist can be")
	}
	var h head
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, err
	}
	if h.Type == "" {
		return nil, errors.New("it has no type")
	}
	if h.Type == netconf.Type {
		return nil, errors.New("it has no plug-in beside Warren's")
	}
	if err := chainable(text); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	for _, key := range []string{"cniVersion", "cniVersions", "name", "disableCheck", "disableGC"} {
		if at, ok := fields[key]; ok {
			fmt.Fprintf(&b, "  %q: %s,\n", key, text[at.from:at.to])
		}
	}
	fmt.Fprintf(&b, "  \"plugins\": [\n    %s,\n    %s\n  ]\n}\n", bytes.TrimSpace(text), entry)
	return b.Bytes(), nil
}

// chainable tells whether a chain with our plug-in would run: one that does not speak the chain's version would fail
// every pod of the node.
func chainable(text []byte) error {
	var h head
	if err := json.Unmarshal(text, &h); err != nil {
		return err
	}
	if h.Name == "" {
		return errors.New("it has no name")
	}
	newest := h.CNIVersion
	for _, v := range h.CNIVersions {
		newer := newest == ""
		if !newer {
			var err error
			if newer, err = version.GreaterThan(v, newest); err != nil {
				return fmt.Errorf("cniVersions: %w", err)
			}
		}
		if newer {
			newest = v
		}
	}
	supported := netconf.Supported()
	if !slices.Contains(supported, newest) {
		return fmt.Errorf("cniVersion: it is %.20q, and Warren's plug-in can be chained in versions %s", newest, strings.Join(supported, ", "))
	}
	return nil
}
