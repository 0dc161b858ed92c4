package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDepth bounds the nesting of one document, and so ends a cycle of aliases.
	maxDepth = 64
	// maxNodes bounds what one file may expand to, and so ends an alias bomb. 4 MiB of YAML hold about a million nodes.
	maxNodes = 2_000_000
)

// fieldError is one thing wrong with one field.
type fieldError struct {
	line   int
	path   string
	reason string
}

func (e *fieldError) Error() string {
	if e.path == "" {
		return e.reason
	}
	return e.path + ": " + e.reason
}

// decoder turns YAML nodes into Go values by their json tags, and remembers the line of every field it saw.
type decoder struct {
	strict bool // an unknown field is an error
	nodes  int  // how many nodes may still be visited
	lines  map[string]int
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) error {
	return &fieldError{line: n.Line, path: path, reason: fmt.Sprintf(format, args...)}
}

// decode fills v, which must be settable, from n.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string, depth int) error {
	if d.nodes--; d.nodes < 0 {
		return d.fail(n, path, "the file expands to more than %d nodes: aliases are repeated too often", maxNodes)
	}
	if depth > maxDepth {
		return d.fail(n, path, "nested deeper than %d levels", maxDepth)
	}
	if n.Kind == yaml.AliasNode {
		return d.decode(n.Alias, v, path, depth+1)
	}
	d.lines[path] = n.Line
	if n.ShortTag() == "!!null" {
		return nil
	}
	if r, ok := v.Addr().Interface().(nodeReader); ok {
		return r.readNode(d, n, path, depth)
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		return d.decodeScalarJSON(n, u, path)
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.decode(n, v.Elem(), path, depth+1)
	case reflect.Struct:
		return d.decodeStruct(n, v, path, depth)
	case reflect.Map:
		return d.decodeMap(n, v, path, depth)
	case reflect.Slice:
		return d.decodeSlice(n, v, path, depth)
	default:
		return d.decodeScalar(n, v, path)
	}
}

// pairs calls yield for every key and value of a mapping. Returns an error for a mapping that is none, a key that is
// not a string, occurs twice, or is a merge key.
func (d *decoder) pairs(n *yaml.Node, path string, yield func(key string, kn, val *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return d.fail(n, path, "want a mapping, got %s", describe(n))
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.ShortTag() == "!!merge" {
			return d.fail(k, path, "the merge key << is not supported: write the fields out")
		}
		if k.Kind != yaml.ScalarNode {
			return d.fail(k, path, "want a string as key, got %s", describe(k))
		}
		if seen[k.Value] {
			return d.fail(k, join(path, k.Value), "the field occurs twice")
		}
		seen[k.Value] = true
		if err := yield(k.Value, k, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string, depth int) error {
	return d.pairs(n, path, func(key string, kn, val *yaml.Node) error {
		for i := range v.NumField() {
			if name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); name == key {
				return d.decode(val, v.Field(i), join(path, key), depth+1)
			}
		}
		if !d.strict {
			return nil
		}
		if reason, ok := foreignFields[key]; ok {
			return d.fail(kn, join(path, key), "%s", reason)
		}
		return d.fail(kn, join(path, key), "unknown field")
	})
}

func (d *decoder) decodeMap(n *yaml.Node, v reflect.Value, path string, depth int) error {
	v.Set(reflect.MakeMap(v.Type()))
	return d.pairs(n, path, func(key string, _, val *yaml.Node) error {
		elem := reflect.New(v.Type().Elem()).Elem()
		if err := d.decode(val, elem, join(path, key), depth+1); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(key), elem)
		return nil
	})
}

func (d *decoder) decodeSlice(n *yaml.Node, v reflect.Value, path string, depth int) error {
	if n.Kind != yaml.SequenceNode {
		return d.fail(n, path, "want a list, got %s", describe(n))
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		if err := d.decode(item, v.Index(i), path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) decodeScalar(n *yaml.Node, v reflect.Value, path string) error {
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode {
		tag = ""
	}
	switch v.Kind() {
	case reflect.String:
		if tag != "!!str" && tag != "!!timestamp" {
			return d.fail(n, path, "want a string, got %s", describe(n))
		}
		v.SetString(n.Value)
	case reflect.Bool:
		if tag != "!!bool" {
			return d.fail(n, path, "want true or false, got %s", describe(n))
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Uint16:
		u, err := strconv.ParseUint(n.Value, 10, 16)
		if tag != "!!int" || err != nil {
			return d.fail(n, path, "want a number from 0 to 65535, got %s", describe(n))
		}
		v.SetUint(u)
	case reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(n.Value, 10, v.Type().Bits())
		if tag != "!!int" || err != nil {
			return d.fail(n, path, "want a whole number of at most %d bits, got %s", v.Type().Bits(), describe(n))
		}
		v.SetInt(i)
	default:
		return d.fail(n, path, "cannot be read into %s", v.Type())
	}
	return nil
}

func (d *decoder) decodeScalarJSON(n *yaml.Node, u json.Unmarshaler, path string) error {
	raw := n.Value
	if n.ShortTag() == "!!str" {
		quoted, err := json.Marshal(n.Value)
		if err != nil {
			return d.fail(n, path, "%v", err)
		}
		raw = string(quoted)
	}
	if n.Kind != yaml.ScalarNode {
		return d.fail(n, path, "want a single value, got %s", describe(n))
	}
	if err := u.UnmarshalJSON([]byte(raw)); err != nil {
		return d.fail(n, path, "%v", err)
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// describe says what a node is, in words for an error.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	value := n.Value
	if len(value) > 40 {
		value = value[:40] + "…"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return fmt.Sprintf("the number %s (quote it if it is a string)", value)
	case "!!bool":
		return fmt.Sprintf("the boolean %s (quote it if it is a string)", value)
	case "!!null":
		return "nothing"
	}
	return fmt.Sprintf("%q", value)
}
