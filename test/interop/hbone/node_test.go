package hbone

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/ztunnel/hbone"
)

// patience bounds one scenario.
const patience = 30 * time.Second

func node(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("Node.js is needed as the independent HTTP/2 implementation of this test (package nodejs): %v", err)
	}
	return path
}

// byHost serves Node's scenarios. What a scenario of ours expects to see goes to heard.
func byHost(heard chan<- error) func(context.Context, *hbone.Inbound) {
	return func(ctx context.Context, in *hbone.Inbound) {
		host, _, _ := strings.Cut(in.Request().Authority, ":")
		if in.Request().Baggage != "k8s.namespace.name=shop" {
			heard <- fmt.Errorf("baggage is %q", in.Request().Baggage)
		}
		switch host {
		case "refuse":
			heard <- in.Refuse(401, "policy_denied")
			return
		case "echo":
			echo(ctx, in)
			heard <- nil
			return
		}
		s, err := in.Accept(hbone.Answer{})
		if err != nil {
			heard <- err
			return
		}
		heard <- converse(host, s)
	}
}

func converse(host string, s *hbone.Stream) error {
	switch host {
	case "reset":
		_, err := s.Write([]byte("x"))
		s.Reset(hbone.CodeConnect)
		return err
	case "expects-connect-error":
		return writeFails(s, hbone.CodeConnect)
	case "expects-reset":
		_, err := io.Copy(io.Discard, s)
		if reset := new(hbone.ResetError); !errors.As(err, &reset) || !reset.Remote {
			return fmt.Errorf("want the peer's reset, got %v", err)
		}
		return nil
	case "speaks-first":
		_, err := s.Write([]byte("hello"))
		got, rerr := io.ReadAll(after(s.CloseWrite, s))
		if err := errors.Join(err, rerr); err != nil || string(got) != "what I had to say" {
			return fmt.Errorf("after our end the peer said %q, %v", got, err)
		}
		return nil
	}
	return fmt.Errorf("no such host: %s", host)
}

// writeFails waits for the peer's reset, and checks its code.
func writeFails(s *hbone.Stream, code hbone.Code) error {
	select {
	case <-s.Done():
	case <-time.After(patience):
		return errors.New("the stream did not end")
	}
	_, err := s.Write([]byte("x"))
	if reset := new(hbone.ResetError); !errors.As(err, &reset) || reset.Code != code || !reset.Remote {
		return fmt.Errorf("want the peer's %v, got %v", code, err)
	}
	return nil
}

// after returns r once f is done, or nothing if that fails.
func after(f func() error, r io.Reader) io.Reader {
	if err := f(); err != nil {
		return io.MultiReader()
	}
	return r
}

// serveTLS serves connections over mutual TLS and returns the port.
func serveTLS(t *testing.T, cfg *tls.Config, handle func(context.Context, *hbone.Inbound)) int {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = hbone.ServeConn(t.Context(), nc, hbone.Config{}, handle) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestNodeClient(t *testing.T) {
	bin := node(t)
	for scenario, streams := range map[string]int{
		"client ends first": 1, "server ends first": 1, "refused": 1, "server resets": 1, "client resets": 1, "client destroys": 1,
		"large transfer": 1, "hundred streams": 100, "GET": 0, "ping": 0,
	} {
		t.Run(scenario, func(t *testing.T) {
			ca := newAuthority(t)
			server := ca.leaf(t, "server")
			ca.leaf(t, "client")
			heard := make(chan error, 2*streams+1)
			port := serveTLS(t, server, byHost(heard))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, bin, filepath.Join("testdata", "client.js"), ca.dir, strconv.Itoa(port), scenario)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("node: %v\n%s", err, out)
			}
			for range streams {
				select {
				case err := <-heard:
					if err != nil {
						t.Error(err)
					}
				case <-ctx.Done():
					t.Fatal("a stream did not end here")
				}
			}
		})
	}
}

// nodeServer is Node in another process.
type nodeServer struct {
	port  string
	lines chan string // what it prints
	tls   *tls.Config
}

func startNode(t *testing.T) *nodeServer {
	t.Helper()
	bin := node(t)
	ca := newAuthority(t)
	ca.leaf(t, "server")
	n := &nodeServer{lines: make(chan string, 64), tls: ca.leaf(t, "client")}
	cmd := exec.Command(bin, filepath.Join("testdata", "server.js"), ca.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for sc := bufio.NewScanner(stdout); sc.Scan(); {
			n.lines <- sc.Text()
		}
	})
	t.Cleanup(func() {
		stdin.Close()
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("node: %v\n%s", err, stderr.String())
		}
	})
	n.port = strings.TrimPrefix(n.line(t), "port ")
	return n
}

func (n *nodeServer) line(t *testing.T) string {
	t.Helper()
	select {
	case l := <-n.lines:
		return l
	case <-time.After(patience):
		t.Fatal("node says nothing")
		return ""
	}
}

func (n *nodeServer) dial(ctx context.Context) (net.Conn, error) {
	d := tls.Dialer{Config: n.tls}
	return d.DialContext(ctx, "tcp", "127.0.0.1:"+n.port)
}

// connect opens a connection of its own and a stream to host on it.
func (n *nodeServer) connect(t *testing.T, host string) (*hbone.Stream, *hbone.ClientConn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	nc, err := n.dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cc, err := hbone.NewClientConn(nc, hbone.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	s, err := cc.Connect(ctx, hbone.Request{Authority: host + ":80", Baggage: "k8s.namespace.name=shop"})
	if err == nil {
		t.Cleanup(func() { s.Close() })
		_ = s.SetDeadline(time.Now().Add(patience))
	}
	return s, cc, err
}

func (n *nodeServer) mustConnect(t *testing.T, host string) (*hbone.Stream, *hbone.ClientConn) {
	t.Helper()
	s, cc, err := n.connect(t, host)
	if err != nil {
		t.Fatal(err)
	}
	return s, cc
}

func TestNodeServerHalfCloses(t *testing.T) {
	n := startNode(t)
	t.Run("we end first", func(t *testing.T) {
		s, _ := n.mustConnect(t, "echo")
		_, err := s.Write([]byte("ping"))
		if err := errors.Join(err, s.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s); err != nil || string(got) != "ping" {
			t.Errorf("read %q, %v", got, err)
		}
	})
	t.Run("it ends first", func(t *testing.T) {
		s, _ := n.mustConnect(t, "speaks-first")
		if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		_, err := s.Write([]byte("what I had to say"))
		if err := errors.Join(err, s.CloseWrite()); err != nil {
			t.Error(err)
		}
		if got := n.line(t); got != "heard all" {
			t.Errorf("node says %q", got)
		}
	})
}

func TestNodeServerRefusesAndResets(t *testing.T) {
	n := startNode(t)
	_, _, err := n.connect(t, "refuse")
	if status := new(hbone.StatusError); !errors.As(err, &status) || *status != (hbone.StatusError{Status: 503, Reason: "no_upstream"}) {
		t.Errorf("refused with %v", err)
	}
	s, _ := n.mustConnect(t, "reset")
	if err := writeFails(s, hbone.CodeConnect); err != nil {
		t.Error(err)
	}
	s, _ = n.mustConnect(t, "destroy")
	_, _ = s.Write([]byte("x")) // what is read tells
	_, err = s.Read(make([]byte, 1))
	if reset := new(hbone.ResetError); !errors.As(err, &reset) || !reset.Remote {
		t.Errorf("destroyed with %v", err)
	}
	s, cc := n.mustConnect(t, "expects-reset")
	s.Reset(hbone.CodeConnect)
	if got := n.line(t); got != "reset 10" {
		t.Errorf("node says %q, want CONNECT_ERROR", got)
	}
	if !cc.Usable() {
		t.Error("the connection went with its stream")
	}
}

func TestNodeServerLargeTransfer(t *testing.T) {
	const size = 64 << 20
	s, _ := startNode(t).mustConnect(t, "echo")
	sent := sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := s.ReadFrom(io.TeeReader(io.LimitReader(rand.Reader, size), sent))
		done <- errors.Join(err, s.CloseWrite())
	}()
	received := sha256.New()
	n, err := s.WriteTo(received)
	if err := errors.Join(err, <-done); err != nil || n != size {
		t.Fatalf("%d bytes came back, %v", n, err)
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		t.Error("checksums differ")
	}
}

func TestNodeServerHundredStreams(t *testing.T) {
	n := startNode(t)
	p := hbone.NewPool(hbone.PoolConfig{MaxConnsPerKey: 1}, func(ctx context.Context, _ string) (net.Conn, error) { return n.dial(ctx) })
	defer p.Close()
	var wg sync.WaitGroup
	var opened sync.WaitGroup
	opened.Add(100)
	for i := range 100 {
		wg.Go(func() {
			s, _, err := p.Connect(t.Context(), "node", hbone.Request{Authority: "echo:80"})
			opened.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			opened.Wait() // all are open at the same time
			text := strings.Repeat(fmt.Sprintf("stream %d\n", i), 1000)
			_, err = s.Write([]byte(text))
			got, rerr := io.ReadAll(after(s.CloseWrite, s))
			if err := errors.Join(err, rerr); err != nil || string(got) != text {
				t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	if st := p.Stats(); st.Dials != 1 {
		t.Errorf("%+v, want one connection", st)
	}
}

func TestNodeServerGoesAway(t *testing.T) {
	s, cc := startNode(t).mustConnect(t, "goes-away")
	for end := time.Now().Add(patience); cc.Usable(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("GOAWAY was not taken")
		}
	}
	_, err := s.Write([]byte("still here"))
	got, rerr := io.ReadAll(after(s.CloseWrite, s))
	if err := errors.Join(err, rerr); err != nil || string(got) != "still here" {
		t.Errorf("read %q, %v", got, err)
	}
	<-cc.Done()
	if err := cc.Err(); err != nil {
		t.Errorf("orderly end: %v", err)
	}
}
