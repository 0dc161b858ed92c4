package compile

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/controller/manifest"
	"go.yaml.in/yaml/v3"
)

// TestNextIsCompile, whatever was before, and what is as it was is the very same.
func TestNextIsCompile(t *testing.T) {
	var objects []*manifest.Object
	there := make(map[manifest.Key]bool)
	for _, doc := range documents(t) {
		text, err := yaml.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		parsed, _, err := manifest.Parse("f.yaml", text)
		if err != nil || len(parsed) != 1 || there[parsed[0].Key] {
			continue
		}
		there[parsed[0].Key] = true
		objects = append(objects, parsed[0])
	}
	before, shared := new(Output), 0
	for seed := range 40 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 11))
		var some []*manifest.Object
		for _, o := range objects {
			if rnd.IntN(8) > 0 {
				some = append(some, o)
			}
		}
		opts := Options{TrustDomain: "cluster.local", Leaving: seed%10 == 9}
		want, err := Compile(some, opts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := before.Next(some, opts)
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, want, got)
		for key, r := range got.Resources {
			if was := before.Resources[key]; was != nil && (was == r) != proto.Equal(was, r) {
				t.Fatalf("%s is the same: %t, equals what was: %t", key, was == r, proto.Equal(was, r))
			} else if was == r {
				shared++
			}
		}
		before = got
	}
	if len(objects) < 50 || shared < 1000 {
		t.Errorf("of %d objects %d resources were shared: nothing much was tried", len(objects), shared)
	}
}

func checkSame(t *testing.T, want, got *Output) {
	t.Helper()
	if !maps.EqualFunc(want.Encoded, got.Encoded, bytes.Equal) || !maps.EqualFunc(want.Audience, got.Audience, slices.Equal[[]string]) ||
		!slices.Equal(want.Problems, got.Problems) {
		t.Fatal("Next came to other resources, audiences or problems than Compile")
	}
	if !reflect.DeepEqual(want.Decoded.Mesh.Workloads(), got.Decoded.Mesh.Workloads()) ||
		!reflect.DeepEqual(want.Decoded.Mesh.Services(), got.Decoded.Mesh.Services()) ||
		!reflect.DeepEqual(want.Decoded.Policies.All(), got.Decoded.Policies.All()) {
		t.Fatal("Next decoded to something else than Compile")
	}
	for key, r := range got.Resources {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
		if err != nil || !bytes.Equal(b, got.Encoded[key]) {
			t.Fatalf("%s is not what is encoded of it: %v", key, err)
		}
	}
}
