package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// maxReason bounds what is read of the other side's reason for ending a connection, bytes.
const maxReason = 4 << 10

// Forward connects to a port of a pod through the API server and the kubelet, over a websocket or, where a proxy or an
// old API server does not speak that, SPDY. The connection is one stream; nothing listens on this machine.
func (c *Cluster) Forward(ctx context.Context, pod string, port int) (net.Conn, error) {
	u := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(c.Namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := c.dialer(u)
	if err != nil {
		return nil, fmt.Errorf("prepare a connection to pod %s/%s: %w", c.Namespace, pod, err)
	}
	type dialed struct {
		conn httpstream.Connection
		err  error
	}
	done := make(chan dialed, 1)
	go func() {
		conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		done <- dialed{conn, err}
	}()
	select {
	case <-ctx.Done():
		go func() { // the dialer takes no context
			if late := <-done; late.err == nil {
				late.conn.Close()
			}
		}()
		return nil, fmt.Errorf("connect to port %d of pod %s/%s: %w", port, c.Namespace, pod, ctx.Err())
	case d := <-done:
		if d.err != nil {
			return nil, fmt.Errorf("connect to port %d of pod %s/%s: %w", port, c.Namespace, pod, d.err)
		}
		return newStream(d.conn, pod, port)
	}
}

func (c *Cluster) dialer(u *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(c.rest)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	web, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, c.rest)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialerForStreaming(web, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// stream is a forwarded connection as a net.Conn.
type stream struct {
	conn httpstream.Connection
	data httpstream.Stream
	name string

	// reason is what the kubelet said on the error stream; it is there once said is closed.
	said   chan struct{}
	reason string
	once   sync.Once
}

func newStream(conn httpstream.Connection, pod string, port int) (net.Conn, error) {
	h := http.Header{}
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	fails, err := conn.CreateStream(h)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open the error stream to pod %s: %w", pod, err)
	}
	fails.Close() // we write nothing there
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := conn.CreateStream(h)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open the data stream to pod %s: %w", pod, err)
	}
	s := &stream{conn: conn, data: data, name: fmt.Sprintf("%s:%d", pod, port), said: make(chan struct{})}
	go func() { // ends with the connection
		defer close(s.said)
		raw, _ := io.ReadAll(io.LimitReader(fails, maxReason))
		s.reason = strings.TrimSpace(string(raw))
	}()
	return s, nil
}

// Read implements net.Conn. The end of the data is the moment at which a reason may have been said.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.data.Read(p)
	if err == nil || n > 0 {
		return n, err
	}
	select {
	case <-s.said:
	case <-time.After(100 * time.Millisecond):
		return 0, err
	}
	if s.reason != "" {
		return 0, errors.New(s.reason)
	}
	return 0, err
}

func (s *stream) Write(p []byte) (int, error) { return s.data.Write(p) }

func (s *stream) Close() error {
	var err error
	s.once.Do(func() {
		_ = s.data.Reset() // of no interest: the next line ends everything
		err = s.conn.Close()
	})
	return err
}

// addr names one end of a forwarded connection.
type addr string

func (addr) Network() string  { return "port-forward" }
func (a addr) String() string { return string(a) }

func (s *stream) LocalAddr() net.Addr  { return addr("agentctl") }
func (s *stream) RemoteAddr() net.Addr { return addr(s.name) }

// Streams have no deadlines; those who need one close the connection.
func (s *stream) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (s *stream) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (s *stream) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
