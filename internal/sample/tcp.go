package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// The modes of the TCP server.
const (
	modeEcho    = "echo"    // sends back what it reads; ends its side when the peer has ended its own
	modeDiscard = "discard" // reads until the peer ends, then says how many bytes that were
	modeChargen = "chargen" // sends until the peer goes away
	modeBanner  = "banner"  // speaks first, then echoes
	modePeer    = "peer"    // says whom it sees, and ends
)

func tcpModes() []string { return []string{modeEcho, modeDiscard, modeChargen, modeBanner, modePeer} }

const (
	tcpBuffer = 32 << 10
	// maxConns bounds the connections that are served at once.
	maxConns = 10_000
)

func tcpCommand(out io.Writer) *cobra.Command {
	var ports []uint
	var mode string
	cmd := &cobra.Command{
		Use:   "tcp",
		Short: "Serve TCP: echo, discard, chargen, banner (the server speaks first) or peer (says whom it sees)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(tcpModes(), mode) {
				return fmt.Errorf("--mode %q: want one of %s", mode, strings.Join(tcpModes(), ", "))
			}
			wanted, err := portNumbers(ports)
			if err != nil {
				return err
			}
			listeners, err := listenAll(cmd.Context(), wanted)
			if err != nil {
				return err
			}
			return NewTCPServer(mode, out).Serve(cmd.Context(), listeners)
		},
	}
	cmd.Flags().UintSliceVar(&ports, "port", []uint{9000}, "port to listen on; may be repeated")
	cmd.Flags().StringVar(&mode, "mode", modeEcho, strings.Join(tcpModes(), ", "))
	return cmd
}

// TCPServer is the server of `sample tcp`.
type TCPServer struct {
	mode string
	slot chan struct{}

	mu    sync.Mutex
	out   io.Writer
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

// NewTCPServer makes a server that logs its peers to out. mode is one of echo, discard, chargen, banner and peer.
func NewTCPServer(mode string, out io.Writer) *TCPServer {
	return &TCPServer{mode: mode, out: out, slot: make(chan struct{}, maxConns), conns: map[net.Conn]struct{}{}}
}

// Serve accepts until ctx ends, closes every connection and returns once all are done. It owns the listeners.
func (s *TCPServer) Serve(ctx context.Context, listeners []net.Listener) error {
	for _, l := range listeners {
		s.logf("tcp %s on %s\n", s.mode, l.Addr())
	}
	err := serveAll(ctx, listeners, s.acceptLoop, func(context.Context) error {
		err := closeAll(listeners)
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			_ = c.Close()
		}
		return err
	})
	s.wg.Wait()
	return err
}

func (s *TCPServer) acceptLoop(l net.Listener) error {
	for {
		s.slot <- struct{}{}
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.conns[conn] = struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() { s.handle(conn) })
	}
}

func (s *TCPServer) handle(conn net.Conn) {
	defer func() {
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		_ = conn.Close()
		<-s.slot
	}()
	remote, peer := address(conn.RemoteAddr()), peerName(conn)
	s.logf("accept=%s getpeername=%s local=%s\n", remote, peer, address(conn.LocalAddr()))
	if err := s.talk(conn, remote, peer); err != nil {
		s.logf("%s: %v\n", remote, err)
	}
}

func (s *TCPServer) talk(conn net.Conn, remote, peer string) error {
	switch s.mode {
	case modeDiscard:
		n, err := pump(io.Discard, conn)
		if err == nil {
			_, err = fmt.Fprintf(conn, "%d\n", n)
		}
		return err
	case modeChargen:
		_, err := pump(conn, &pattern{})
		return err
	case modePeer:
		_, err := fmt.Fprintf(conn, "accept=%s getpeername=%s local=%s\n", remote, peer, address(conn.LocalAddr()))
		return err
	case modeBanner:
		if _, err := io.WriteString(conn, "hello, I speak first\n"); err != nil {
			return err
		}
	}
	if _, err := pump(conn, conn); err != nil {
		return err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		return tcp.CloseWrite()
	}
	return nil
}

func (s *TCPServer) logf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format, args...)
}

// pump copies with plain reads and writes, as most apps do; io.Copy between two TCP connections would splice(2).
func pump(dst io.Writer, src io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, tcpBuffer))
}
