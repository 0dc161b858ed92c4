package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxFileBytes   = 4 << 20
	maxFileObjects = 10_000
)

// foreignFields are fields of Istio's policies that ours do not have, and why.
var foreignFields = map[string]string{
	"remoteIpBlocks":    "is not offered: ipBlocks compares the address that the peer itself has",
	"notRemoteIpBlocks": "is not offered: notIpBlocks compares the address that the peer itself has",
	"provider":          "names something of Istio's mesh configuration: write external, with the authorizer's service",
	"targetRef":         "is not offered: write targetRefs, with one entry",
}

// Ignored is a document that is of no use to the mesh.
type Ignored struct {
	Origin Origin
	Object string // "Kind ns/name"
	Reason string
}

// ErrRejected is wrapped by every error about a manifest's content.
var ErrRejected = errors.New("manifest rejected")

// parseError is one rejected object: "file:line: Kind ns/name: field.path: reason".
type parseError struct {
	origin Origin
	object string
	err    error
}

func (e *parseError) Error() string {
	if e.object == "" {
		return e.origin.String() + ": " + e.err.Error()
	}
	return e.origin.String() + ": " + e.object + ": " + e.err.Error()
}

func (e *parseError) Unwrap() []error { return []error{ErrRejected, e.err} }

// parsed is the content of one file.
type parsed struct {
	objects []*Object
	ignored []Ignored
}

// parser reads one file.
type parser struct {
	file string
	// served is true if an API server has read it before.
	served bool
	nodes  int
	out    parsed
	seen   map[Key]Origin
}

// parse reads every document of data, which came from file. It returns all of them or the first error, which wraps
// ErrRejected.
func parse(file string, data []byte) (parsed, error) {
	return (&parser{file: file, nodes: maxNodes, seen: make(map[Key]Origin)}).parse(data)
}

func (p *parser) parse(data []byte) (parsed, error) {
	file := p.file
	if len(data) > maxFileBytes {
		return parsed{}, &parseError{Origin{file, 1}, "", fmt.Errorf("larger than %d bytes: split the file", maxFileBytes)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return p.out, nil
		}
		if err != nil {
			return parsed{}, &parseError{Origin{file, yamlLine(err)}, "", fmt.Errorf("not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))}
		}
		if len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null" {
			continue
		}
		if err := p.document(doc.Content[0], 0); err != nil {
			return parsed{}, err
		}
	}
}

// yamlLine digs the line out of the YAML library's error text, 1 if it has none.
func yamlLine(err error) int {
	var line int
	if _, after, ok := strings.Cut(err.Error(), "line "); ok {
		if n, _ := fmt.Sscanf(after, "%d", &line); n == 1 && line > 0 {
			return line
		}
	}
	return 1
}

// envelope is what every document has.
type envelope struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   Meta   `json:"metadata"`
}

// document reads one document, or every item of a List.
func (p *parser) document(n *yaml.Node, depth int) error {
	var env envelope
	d := &decoder{nodes: p.nodes, lines: make(map[string]int)}
	err := d.decode(n, reflect.ValueOf(&env).Elem(), "", 0)
	p.nodes = d.nodes
	key := Key{env.Kind, env.Metadata.Namespace, env.Metadata.Name}
	if err != nil {
		return p.reject(key, n.Line, err)
	}
	if env.Kind == "" || env.APIVersion == "" {
		return p.reject(key, n.Line, errors.New("kind and apiVersion are required"))
	}
	if env.Kind == "List" && env.APIVersion == "v1" {
		return p.list(n, depth)
	}
	if len(p.out.objects)+len(p.out.ignored) >= maxFileObjects {
		return p.reject(key, n.Line, fmt.Errorf("more than %d objects: split the file", maxFileObjects))
	}
	return p.object(d, n, env)
}

func (p *parser) list(n *yaml.Node, depth int) error {
	if depth > 0 {
		return p.reject(Key{Kind: "List"}, n.Line, errors.New("a List within a List"))
	}
	items := field(n, "items")
	if items == nil || items.Kind != yaml.SequenceNode {
		return p.reject(Key{Kind: "List"}, n.Line, errors.New("items: want a list"))
	}
	for _, item := range items.Content {
		if err := p.document(item, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// field returns the value of a mapping's key, or nil.
func field(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func (p *parser) reject(key Key, line int, err error) error {
	object := ""
	if key.Kind != "" {
		object = key.String()
	}
	var fe *fieldError
	if errors.As(err, &fe) && fe.line > 0 {
		line = fe.line
	}
	return &parseError{Origin{p.file, line}, object, err}
}

// object reads one object of a kind that the mesh knows, or notes that it is ignored.
// d has read the envelope.
func (p *parser) object(d *decoder, n *yaml.Node, env envelope) error {
	o := &Object{Key: Key{env.Kind, env.Metadata.Namespace, env.Metadata.Name}, Origin: Origin{p.file, n.Line}, Meta: env.Metadata}
	k, err := kindOf(env)
	if err != nil {
		return p.reject(o.Key, n.Line, err)
	}
	if k == nil {
		p.out.ignored = append(p.out.ignored, Ignored{o.Origin, o.Key.String(), "the mesh has no use for " + env.APIVersion + " " + env.Kind})
		return nil
	}
	if k.namespaced && o.Namespace == "" {
		o.Namespace, o.Meta.Namespace = "default", "default"
	}
	if !k.namespaced {
		o.Namespace, o.Meta.Namespace = "", ""
	}
	d.strict = k.strict && !(k.foreign && p.served)
	err = k.read(d, n, o)
	p.nodes = d.nodes
	if err == nil {
		err = checkMeta(d, o)
	}
	if err != nil {
		return p.reject(o.Key, n.Line, err)
	}
	if first, dup := p.seen[o.Key]; dup {
		return p.reject(o.Key, n.Line, fmt.Errorf("occurs twice in this file, first in line %d", first.Line))
	}
	p.seen[o.Key] = o.Origin
	p.out.objects = append(p.out.objects, o)
	return nil
}
