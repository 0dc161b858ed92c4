package publish

import (
	"errors"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Encoded is an Update that was marshalled already. Only a server with [Codec] can send it.
type Encoded struct{ bytes []byte }

// codec is gRPC's own protobuf codec, which also takes an Encoded for what it is.
type codec struct{ encoding.CodecV2 }

// Codec returns the codec that the agents' gRPC server must be made with (grpc.ForceServerCodecV2), so that one
// marshalled update serves every agent.
// Returns an error if gRPC has no protobuf codec.
func Codec() (encoding.CodecV2, error) {
	inner := encoding.GetCodecV2(proto.Name)
	if inner == nil {
		return nil, errors.New("gRPC has no protobuf codec")
	}
	return codec{inner}, nil
}

// Marshal implements encoding.CodecV2. The bytes of an Encoded are shared and never returned to a pool.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(*Encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(e.bytes)}, nil
	}
	return c.CodecV2.Marshal(v)
}
