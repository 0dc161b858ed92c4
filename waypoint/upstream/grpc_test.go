package upstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// grpcServer serves the health service at a pod's address.
func grpcServer(t *testing.T, f *field, addr string) *grpc.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	f.at(addr, l.Addr().String())
	return s
}

// check calls Health/Check as gRPC over HTTP/2 has it, and returns the status of the call.
func (f *field) check(service string) (status string, err error) {
	m, err := proto.Marshal(&healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return "", err
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m)))
	r := get("/grpc.health.v1.Health/Check")
	r.Method, r.Body, r.ContentLength = http.MethodPost, io.NopCloser(bytes.NewReader(append(frame, m...))), -1
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	a := f.askNow(true)
	p, err := f.u.Pick(a)
	if err != nil {
		return "", err
	}
	res, err := p.RoundTrip(r)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	status = res.Trailer.Get("Grpc-Status")
	if status == "" {
		return res.Header.Get("Grpc-Status"), nil
	}
	answer := &healthpb.HealthCheckResponse{}
	if status == "0" {
		if err = proto.Unmarshal(b[5:], answer); err == nil && answer.Status != healthpb.HealthCheckResponse_SERVING {
			err = fmt.Errorf("answer %v", answer)
		}
	}
	return status, err
}

func TestGRPCCallsHaveTheirTrailers(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	grpcServer(t, f, "10.0.0.1")
	f.publish()
	if status, err := f.check(""); status != "0" || err != nil {
		t.Errorf("status %q, %v", status, err)
	}
	if status, err := f.check("unknown"); status != "5" || err != nil {
		t.Errorf("status %q, %v; want NOT_FOUND", status, err)
	}
}

// TestGracefulRestartOfAGRPCServerLosesNoCall calls without end while the server is replaced ten times: each goes away
// by GOAWAY, in the middle of calls. A call whose connection cannot be made chooses again, as the proxy does.
func TestGracefulRestartOfAGRPCServerLosesNoCall(t *testing.T) {
	f := newField(t)
	f.pod("a", "10.0.0.1", nil)
	server := grpcServer(t, f, "10.0.0.1")
	f.publish()
	stop := make(chan struct{})
	var calls, again atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				status, err := f.check("")
				for tries := 0; errors.Is(err, ErrNotSent) && tries < 2; tries++ {
					again.Add(1)
					status, err = f.check("")
				}
				if calls.Add(1); status != "0" || err != nil {
					t.Errorf("call %d: status %q, %v", calls.Load(), status, err)
					return
				}
			}
		})
	}
	for range 10 {
		time.Sleep(30 * time.Millisecond)
		old := server
		server = grpcServer(t, f, "10.0.0.1")
		ctx, done := context.WithCancel(context.Background())
		go func() { old.GracefulStop(); done() }()
		<-ctx.Done()
	}
	close(stop)
	wg.Wait()
	t.Logf("%d calls, %d chose again, %d connections", calls.Load(), again.Load(), f.dials.Load())
	if calls.Load() < 100 || f.dials.Load() < 11 {
		t.Errorf("%d calls on %d connections prove nothing", calls.Load(), f.dials.Load())
	}
}
