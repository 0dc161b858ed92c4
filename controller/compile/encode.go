package compile

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
)

// encode marshals resources. Those that are byte for byte as they were before are put in the place of the new ones, with
// their bytes.
func encode(resources map[string]*meshv1.Resource, before *Output) (map[string][]byte, error) {
	out := make(map[string][]byte, len(resources))
	var scratch []byte
	for key, r := range resources {
		var err error
		if scratch, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(scratch[:0], r); err != nil {
			return nil, fmt.Errorf("resource %s: %w", key, err)
		}
		if was, ok := before.Encoded[key]; ok && bytes.Equal(was, scratch) {
			resources[key], out[key] = before.Resources[key], was
		} else {
			out[key] = bytes.Clone(scratch)
		}
	}
	return out, nil
}
