package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	pb "sigs.k8s.io/gateway-api/conformance/echo-basic/grpcechoserver"
)

const (
	askTimeout = 10 * time.Second
	maxBody    = 1 << 20
)

// question is what the client was told to ask.
type question struct {
	url    *url.URL
	method string
	header http.Header
	count  int
}

// parseQuestion reads URL, --method, -H NAME:VALUE and --count, in any order.
func parseQuestion(args []string) (q question, err error) {
	q.header = http.Header{}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&q.method, "method", http.MethodGet, "the request's method")
	flags.IntVar(&q.count, "count", 1, "how many times to ask, one after the other")
	flags.Func("H", "a header, NAME:VALUE", func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		if !ok {
			return errors.New("it must be NAME:VALUE")
		}
		q.header.Add(name, value)
		return nil
	})
	for {
		if err := flags.Parse(args); err != nil {
			return q, err
		}
		if flags.NArg() == 0 {
			break
		}
		if q.url != nil {
			return q, fmt.Errorf("%q: there is a URL already", flags.Arg(0))
		}
		if q.url, err = url.Parse(flags.Arg(0)); err != nil {
			return q, err
		}
		args = flags.Args()[1:]
	}
	if q.url == nil {
		return q, errors.New("no URL to ask")
	}
	return q, nil
}

// ask asks, and prints every answer as a block of lines with an empty one behind it. Requests share a connection: who
// spreads them must do so request by request.
func ask(ctx context.Context, args []string, out io.Writer) error {
	q, err := parseQuestion(args)
	if err != nil {
		return err
	}
	once := q.overHTTP()
	if q.url.Scheme == "grpc" {
		conn, err := grpc.NewClient(q.url.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		once = q.overGRPC(pb.NewGrpcEchoClient(conn))
	}
	buffered := bufio.NewWriter(out)
	for i := range q.count {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		lines, err := once(ctx)
		cancel()
		if err != nil {
			return errors.Join(fmt.Errorf("[%d] %w", i, err), buffered.Flush())
		}
		fmt.Fprintf(buffered, "[%d] Url=%s\n", i, q.url)
		for _, line := range lines {
			fmt.Fprintf(buffered, "[%d%s\n", i, line)
		}
		fmt.Fprintln(buffered)
	}
	return buffered.Flush()
}

// overHTTP asks by HTTP/1.1 and follows no redirect.
func (q question) overHTTP() func(context.Context) ([]string, error) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) (lines []string, err error) {
		r, err := http.NewRequestWithContext(ctx, q.method, q.url.String(), nil)
		if err != nil {
			return nil, err
		}
		r.Header = q.header.Clone()
		if host := r.Header.Get("Host"); host != "" {
			r.Host = host
		}
		resp, err := client.Do(r)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("] StatusCode=%d", resp.StatusCode))
		for name, values := range resp.Header {
			lines = append(lines, fmt.Sprintf("] ResponseHeader=%s:%s", name, strings.Join(values, ",")))
		}
		for line := range strings.Lines(string(body)) {
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, " body] "+line)
			}
		}
		return lines, nil
	}
}

// overGRPC asks for the method that the URL's path names, Echo if it names none.
func (q question) overGRPC(client pb.GrpcEchoClient) func(context.Context) ([]string, error) {
	return func(ctx context.Context) (lines []string, err error) {
		for name, values := range q.header {
			for _, v := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), v)
			}
		}
		var header metadata.MD
		method := client.Echo
		switch q.url.Path {
		case "/EchoTwo":
			method = client.EchoTwo
		case "/EchoThree":
			method = client.EchoThree
		}
		reply, err := method(ctx, &pb.EchoRequest{}, grpc.Header(&header))
		if err != nil {
			return nil, err
		}
		lines = append(lines, "] StatusCode=200")
		for name, values := range header {
			lines = append(lines, fmt.Sprintf("] ResponseHeader=%s:%s", name, strings.Join(values, ",")))
		}
		got := reply.GetAssertions()
		for _, h := range got.GetHeaders() {
			lines = append(lines, fmt.Sprintf(" body] RequestHeader=%s:%s", h.GetKey(), h.GetValue()))
		}
		return append(lines, " body] Method="+got.GetFullyQualifiedMethod(), " body] Host="+got.GetAuthority(),
			" body] Hostname="+got.GetContext().GetPod()), nil
	}
}
