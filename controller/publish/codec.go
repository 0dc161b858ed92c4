package publish

import (
	"errors"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Encoded is an Update that was marshalled already, in two parts of one message. Only a server with [Codec] can send
// it.
type Encoded struct {
	shared []byte // that every receiver gets
	own    []byte // that only some get, or this one
}

// codec is gRPC's own protobuf codec, which also takes an Encoded for what it is.
type codec struct{ encoding.CodecV2 }

// Codec returns the codec that the agents' gRPC server must be made with (grpc.ForceServerCodecV2), so that what
// is marshalled once serves every receiver.
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
		if len(e.own) == 0 {
			return mem.BufferSlice{mem.SliceBuffer(e.shared)}, nil
		}
		return mem.BufferSlice{mem.SliceBuffer(e.shared), mem.SliceBuffer(e.own)}, nil
	}
	return c.CodecV2.Marshal(v)
}
