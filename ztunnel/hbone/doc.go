// Package hbone is the wire between two nodes: HTTP/2 CONNECT streams over one established connection, both as client and
// as server. It owns frames, flow control, keep-alive, limits and the pool of warm connections. It does not own identity:
// it is handed a [net.Conn] whose peer is already verified (a *tls.Conn that negotiated "h2"). Only ztunnel and the
// waypoint may call it.
//
// The protocol is RFC 9113 with plain CONNECT (section 8.5) as Istio's ztunnel uses it. net/http cannot serve it, because
// it cannot half-close a stream; so frame order, DATA and flow control are ours, while the parsing of other frames and
// HPACK are golang.org/x/net/http2's.
//
// The journey of a byte, from the app on node A to the app on node B:
//
//	app A's socket
//	  │ Stream.ReadFrom: one read, behind 9 free bytes            (send.go)
//	  ▼
//	frame buffer ── wait for stream and connection credit ──      (flow.go: conn.acquire)
//	  │ 9-byte header written in place, pending control frames in front of it
//	  ▼ one Write of the connection, ≤ 60 KiB                     (write.go: conn.writeData)
//	TLS ═══════════════════════════════════════════════════ TLS
//	  ▼ the connection's only reader; it never waits for anybody  (read.go: conn.readFrames)
//	frame header ── order, window and stream are checked ──       (data.go: conn.onData)
//	  ▼ 16 KiB chunks of the stream's own buffer                  (recv.go: Stream.deliver)
//	Stream.WriteTo: one writev of all the chunks that are there
//	  │ what the app took is credited to the peer, by WINDOW_UPDATE
//	  ▼
//	app B's socket
//
// The way back is the same with the names exchanged: a stream has no direction of its own.
//
// # Who runs
//
// A connection has two goroutines. The reader takes every frame and may not block on anything but the socket; what it has
// to say to the peer (acknowledgements, window updates, resets) goes into a bounded control buffer. The flusher writes
// that buffer if no stream's writer takes it along first. DATA is written by the goroutine that calls Write or ReadFrom; if
// it is small it goes into that buffer too, and on a busy connection whoever writes next takes it along (gather.go). Since
// both readers always read, two endpoints with full sockets cannot wait for each other. A timer, not a goroutine, does
// keep-alive and deadlines.
//
// # Locks
//
// wmu guards the socket's write side; conn.mu streams, states and send credit; recvState.mu one stream's receive buffer;
// ctlMu the control buffer. They are taken in this order: monitor.mu or wmu, then conn.mu or recvState.mu, then ctlMu. Only
// wmu is held while something waits for the socket.
//
// # Errors
//
// FIN is END_STREAM is [io.EOF]; RST is RST_STREAM is [*ResetError]; a refusal is [*StatusError]. A connection that is lost
// gives its streams an error that wraps [ErrPeerGone], never io.EOF, so truncation cannot look like an end.
package hbone
