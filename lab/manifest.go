package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxManifest bounds one file, bytes; maxObjects bounds one lab.
const (
	maxManifest = 4 << 20
	maxObjects  = 20_000
	// maxFolders bounds how deep a folder is searched.
	maxFolders = 8
)

// object is one Kubernetes object as far as the lab reads it. Fields it does not name are ignored, as objects of
// kinds it does not know are: they are the controller's.
type object struct {
	Kind     string            `json:"kind"`
	Metadata objectMeta        `json:"metadata"`
	Spec     json.RawMessage   `json:"spec"`
	Items    []json.RawMessage `json:"items"`

	where string // file:line
	raw   json.RawMessage
}

type objectMeta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	UID         string            `json:"uid"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

type nodeSpec struct {
	PodCIDR  string   `json:"podCIDR"`
	PodCIDRs []string `json:"podCIDRs"`
}

type podSpec struct {
	NodeName           string      `json:"nodeName"`
	ServiceAccountName string      `json:"serviceAccountName"`
	HostNetwork        bool        `json:"hostNetwork"`
	Containers         []Container `json:"containers"`
}

// Container is one process of a pod.
type Container struct {
	Name       string          `json:"name"`
	Image      string          `json:"image"`
	Command    []string        `json:"command,omitempty"`
	Args       []string        `json:"args,omitempty"`
	WorkingDir string          `json:"workingDir,omitempty"`
	Env        []EnvVar        `json:"env,omitempty"`
	Ports      []ContainerPort `json:"ports,omitempty"`
}

// ContainerPort gives a port number a name, which a Service's targetPort may use.
type ContainerPort struct {
	Name          string `json:"name,omitempty"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
}

// EnvVar is an environment variable: a value, or a field of the pod.
type EnvVar struct {
	Name      string `json:"name"`
	Value     string `json:"value,omitempty"`
	ValueFrom *struct {
		FieldRef *struct {
			FieldPath string `json:"fieldPath"`
		} `json:"fieldRef,omitempty"`
	} `json:"valueFrom,omitempty"`
}

type serviceSpec struct {
	Type       string            `json:"type"`
	ClusterIP  string            `json:"clusterIP"`
	ClusterIPs []string          `json:"clusterIPs"`
	IPFamilies []string          `json:"ipFamilies"`
	Selector   map[string]string `json:"selector"`
	Ports      []servicePort     `json:"ports"`
}

type servicePort struct {
	Name       string          `json:"name"`
	Port       uint16          `json:"port"`
	Protocol   string          `json:"protocol"`
	TargetPort json.RawMessage `json:"targetPort"`
}

func (o *object) String() string {
	if o.Metadata.Namespace == "" {
		return fmt.Sprintf("%s: %s %s", o.where, o.Kind, o.Metadata.Name)
	}
	return fmt.Sprintf("%s: %s %s/%s", o.where, o.Kind, o.Metadata.Namespace, o.Metadata.Name)
}

// bad makes an error about one field of the object.
func (o *object) bad(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s: %s", ErrManifest, o, field, fmt.Sprintf(format, args...))
}

func (o *object) decodeSpec(into any) error {
	if len(o.Spec) == 0 {
		return nil
	}
	if err := json.Unmarshal(o.Spec, into); err != nil {
		return o.bad("spec", "%v", err)
	}
	return nil
}

// readManifests reads files and folders in order. Of a folder it reads every .yaml, .yml and .json file in it and below,
// as the controller does.
func readManifests(roots ...string) ([]*object, error) {
	var objects []*object
	for _, root := range roots {
		files, err := manifestFiles(root)
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		for _, file := range files {
			text, err := readBounded(file)
			if err != nil {
				return nil, err
			}
			found, err := parseManifest(file, text)
			if err != nil {
				return nil, err
			}
			if objects = append(objects, found...); len(objects) > maxObjects {
				return nil, fmt.Errorf("%w: %s: more than %d objects", ErrManifest, root, maxObjects)
			}
		}
	}
	return objects, nil
}

// manifestFiles lists root itself if it is a file, otherwise what is in it, by path. Names that start with a dot do
// not count.
func manifestFiles(root string) ([]string, error) {
	info, err := os.Stat(root)
	if err != nil || !info.IsDir() {
		return []string{root}, err
	}
	var files []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".")
		deep := strings.Count(path[len(root):], string(filepath.Separator)) > maxFolders
		if d.IsDir() && (hidden || deep) {
			return filepath.SkipDir
		}
		if !hidden && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(d.Name())) {
			files = append(files, path)
		}
		return nil
	})
	return files, err
}

func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	if info.Size() > maxManifest {
		return nil, fmt.Errorf("%w: %s: larger than %d bytes", ErrManifest, file, maxManifest)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	return text, nil
}

// parseManifest decodes the YAML documents of one file; file is used in errors only.
func parseManifest(file string, text []byte) ([]*object, error) {
	var objects []*object
	for _, doc := range splitDocuments(text) {
		where := fmt.Sprintf("%s:%d", file, doc.line)
		raw, err := yaml.YAMLToJSON(doc.text)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrManifest, where, err)
		}
		found, err := decodeObject(where, raw)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// decodeObject decodes one object, or the items of a List.
func decodeObject(where string, raw []byte) ([]*object, error) {
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return nil, nil
	}
	o := &object{where: where, raw: raw}
	if err := json.Unmarshal(raw, o); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrManifest, where, err)
	}
	if o.Kind == "" {
		return nil, fmt.Errorf("%w: %s: kind: missing", ErrManifest, where)
	}
	if o.Kind == "List" {
		return decodeItems(where, o.Items)
	}
	return []*object{o}, nil
}

func decodeItems(where string, items []json.RawMessage) ([]*object, error) {
	var objects []*object
	for i, item := range items {
		found, err := decodeObject(fmt.Sprintf("%s items[%d]", where, i), item)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

type document struct {
	text []byte
	line int // of its first line, counted from 1
}

// splitDocuments cuts at document markers. Three hyphens at the start of a line are a marker even inside a block
// scalar (YAML 1.2, section 9.1.2), so no parser is needed to find them.
func splitDocuments(text []byte) []document {
	docs := []document{{line: 1}}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		rest, marker := bytes.CutPrefix(line, []byte("---"))
		if marker && (len(bytes.TrimSpace(rest)) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			docs = append(docs, document{text: slices.Clone(bytes.TrimLeft(rest, " \t")), line: number + 1})
			continue
		}
		last := &docs[len(docs)-1]
		last.text = append(last.text, line...)
	}
	return docs
}
