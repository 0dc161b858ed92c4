// Grpcstream is a gRPC server and its client with one bidirectional stream: the client sends messages as fast as flow
// control lets it, and the server acknowledges each by its number and length. Built by the tests that run it.
//
//	grpcstream serve PORT
//	grpcstream talk HOST:PORT MESSAGES WORDS
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const method = "/warren.test.Journal/Write"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "grpcstream:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 4 && args[0] == "talk":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
		defer cancel()
		return talk(ctx, args[1], n, args[3])
	}
	return errors.New("usage: serve PORT | talk HOST:PORT MESSAGES WORDS")
}

func serve(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "warren.test.Journal", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Write", Handler: acknowledge, ServerStreams: true, ClientStreams: true}},
	}, struct{}{})
	return s.Serve(l)
}

// acknowledge first says whom it sees, then answers every message.
func acknowledge(_ any, stream grpc.ServerStream) error {
	p, _ := peer.FromContext(stream.Context())
	if err := stream.SendMsg(wrapperspb.String(p.Addr.String())); err != nil {
		return err
	}
	for i := 0; ; i++ {
		var in wrapperspb.StringValue
		err := stream.RecvMsg(&in)
		if errors.Is(err, io.EOF) {
			return stream.SendMsg(wrapperspb.String(fmt.Sprintf("end %d", i)))
		}
		if err != nil {
			return err
		}
		if err := stream.SendMsg(wrapperspb.String(ack(in.Value))); err != nil {
			return err
		}
	}
}

func ack(message string) string {
	number, _, _ := strings.Cut(message, " ")
	return fmt.Sprintf("%s %d", number, len(message))
}

func talk(ctx context.Context, target string, n int, words string) error {
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	message := func(i int) string { return fmt.Sprintf("%d %s", i, strings.Repeat(words, 30)) }
	sent := make(chan error, 1)
	go func() { sent <- send(stream, n, message) }()
	seen, err := receive(stream)
	if err != nil {
		return err
	}
	for i := range n {
		if got, err := receive(stream); err != nil || got != ack(message(i)) {
			return fmt.Errorf("acknowledgement %d is %q, want %q: %w", i, got, ack(message(i)), err)
		}
	}
	if got, err := receive(stream); err != nil || got != fmt.Sprintf("end %d", n) {
		return fmt.Errorf("the end is %q: %w", got, err)
	}
	if _, err := receive(stream); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the end: %w", err)
	}
	fmt.Println(seen)
	return <-sent
}

func send(stream grpc.ClientStream, n int, message func(int) string) error {
	for i := range n {
		if err := stream.SendMsg(wrapperspb.String(message(i))); err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

func receive(stream grpc.ClientStream) (string, error) {
	var m wrapperspb.StringValue
	err := stream.RecvMsg(&m)
	return m.Value, err
}
