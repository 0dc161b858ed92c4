package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/bench/echo"
)

// serveEcho is a server as there is one in every pod.
func serveEcho(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- echo.Serve(ctx, l, "test") }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// converseWith has a job done as a client process does, and counts how often it said that it was ready.
func converseWith(t *testing.T, j job) (o outcome, ready int) {
	t.Helper()
	toJob, in := io.Pipe()
	out, fromJob := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- runJob(t.Context(), toJob, fromJob) }()
	enc, dec := json.NewEncoder(in), json.NewDecoder(out)
	if err := enc.Encode(j); err != nil {
		t.Fatal(err)
	}
	if err := dec.Decode(&o); err != nil {
		t.Fatal(err)
	}
	if o.Problem == "" && o.Count == 0 {
		ready++
		if err := enc.Encode("go"); err != nil {
			t.Fatal(err)
		}
		if err := dec.Decode(&o); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	return o, ready
}

func TestJobs(t *testing.T) {
	addr := serveEcho(t)
	for name, c := range map[string]struct {
		job   job
		least int64
	}{
		"check":    {job{Kind: kindCheck, Size: 64}, checkMessages},
		"echo":     {job{Kind: kindEcho, Size: 64, Connections: 4}, 10},
		"rate":     {job{Kind: kindEcho, Size: 1024, Connections: 4, Rate: 200}, 20},
		"beside":   {job{Kind: kindEcho, Size: 64, Connections: 4, Rate: 200, Beside: 2}, 20},
		"http":     {job{Kind: kindHTTP, Size: 1024, Connections: 2}, 10},
		"grpc":     {job{Kind: kindGRPC, Size: 1024, Connections: 8}, 10},
		"upload":   {job{Kind: kindUpload, Connections: 2}, 1 << 20},
		"download": {job{Kind: kindDownload, Connections: 2}, 1 << 20},
		"connect":  {job{Kind: kindConnect, Connections: 4}, 10},
		"cold":     {job{Kind: kindCold, Connections: 1}, 10},
		"idle":     {job{Kind: kindIdle, Size: 64, Connections: 100}, 100},
	} {
		t.Run(name, func(t *testing.T) {
			c.job.Address, c.job.Warm, c.job.Seconds = addr, 0.02, 0.1
			o, ready := converseWith(t, c.job)
			if o.Problem != "" || o.Count < c.least {
				t.Errorf("%+v, want at least %d", o, c.least)
			}
			if want := 1; c.job.Kind != kindCheck && ready != want {
				t.Errorf("it was ready %d times, want %d", ready, want)
			}
			if p := o.Micros; p != nil && !(p["p50"] <= p["p90"] && p["p90"] <= p["p99"] && p["p99"] <= p["p99.9"] && p["p50"] > 0) {
				t.Errorf("percentiles %v", p)
			}
		})
	}
}

// TestJobsSayWhatWentWrong: no figure comes from a server that is not there, or a tunnel that is not.
func TestJobsSayWhatWentWrong(t *testing.T) {
	addr := serveEcho(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	for _, c := range []struct {
		job  job
		want string
	}{
		{job{Kind: kindEcho, Address: nobody, Size: 64, Connections: 1}, "refused"},
		{job{Kind: kindIdle, Address: nobody, Size: 64, Connections: 1}, "refused"},
		{job{Kind: kindUpload, Address: nobody, Connections: 1}, "refused"},
		{job{Kind: kindCheck, Address: addr, Size: 64, Tunnel: 1}, "only 0 came through"},
		{job{Kind: kindCold, Address: addr, Tunnel: 1, Seconds: 1}, "no tunnel to port 1"},
		{job{Kind: "dance"}, "no such job"},
	} {
		if o, _ := converseWith(t, c.job); !strings.Contains(o.Problem, c.want) {
			t.Errorf("%s: %+v, want %q", c.job.Kind, o, c.want)
		}
	}
}

// TestMessagesNoticeAnotherAnswer: a proxy that mixes connections up is not measured.
func TestMessagesNoticeAnotherAnswer(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		buf := make([]byte, 5)
		_, _ = io.ReadFull(server, buf)
		_, _ = io.ReadFull(server, make([]byte, 64))
		_, _ = server.Write(make([]byte, 64))
	}()
	ask, err := messages(client, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "another message") {
		t.Errorf("%v", err)
	}
	_ = server.SetDeadline(time.Now())
}
