package compile

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/tools/txtar"

	"go.yaml.in/yaml/v3"

	"github.com/warren-mesh/warren/controller/manifest"
)

// words are what mutated fields may say: some of it is right somewhere.
func words() []any {
	return []any{
		nil, "", "x", "/", "/a/../b", "(", "x*", "web", "s", "gone", "*", "none", "Exact", "PathPrefix", "RegularExpression", "GET",
		"RequestRedirect", "URLRewrite", "RequestMirror", "CORS", "ExtensionRef", "ReplacePrefixMatch", "10s", "Service", "HTTPRoute",
		"ConsistentHash", "\x00", 0, 1, -1, 80, 99999, 65536, 1 << 40, true, false, []any{}, map[string]any{}, []any{nil},
	}
}

// mutate returns a copy of v in which about one field in `rate` says something else, is gone, or is there twice.
func mutate(r *rand.Rand, v any, rate int) any {
	if r.IntN(rate) == 0 {
		all := words()
		return all[r.IntN(len(all))]
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if r.IntN(rate) != 0 {
				out[k] = mutate(r, v[k], rate)
			}
		}
		return out
	case []any:
		var out []any
		for _, item := range v {
			for range 1 + (rate-r.IntN(rate))/rate {
				out = append(out, mutate(r, item, rate))
			}
		}
		return out
	}
	return v
}

func documents(t *testing.T) (out []any) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files[:len(archive.Files)-1] {
			for dec := yaml.NewDecoder(bytes.NewReader(f.Data)); ; {
				var v any
				if err := dec.Decode(&v); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				out = append(out, v)
			}
		}
	}
	return out
}

// One object that says anything at all never keeps the others from being compiled: what can be read can be compiled.
func TestMutatedManifestsNeverStopTheRest(t *testing.T) {
	all := documents(t)
	rounds := 100
	if testing.Short() {
		rounds = 30
	}
	read := 0
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		var objects []*manifest.Object
		var texts [][]byte
		there := make(map[manifest.Key]bool)
		for _, doc := range all {
			text, err := yaml.Marshal(mutate(r, doc, 15+seed%40))
			if err != nil {
				t.Fatal(err)
			}
			parsed, _, err := manifest.Parse("f.yaml", text)
			if err != nil || len(parsed) != 1 {
				continue
			}
			read++
			if !there[parsed[0].Key] { // as every source of objects sees to
				there[parsed[0].Key] = true
				objects, texts = append(objects, parsed[0]), append(texts, text)
			}
		}
		if _, err := Compile(objects, Options{TrustDomain: "cluster.local"}); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, bytes.Join(texts, []byte("---\n")))
		}
	}
	if read < rounds*len(all)/4 {
		t.Errorf("only %d of %d mutants could be read: nothing much was tried", read, rounds*len(all))
	}
}
