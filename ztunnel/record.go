package ztunnel

import (
	"net/netip"
	"time"

	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/mesh"
)

// Reporter is which side of a connection wrote a record.
type Reporter string

const (
	Outbound Reporter = "outbound" // the client's node
	Inbound  Reporter = "inbound"  // the server's node
)

// Party is one end of a connection.
type Party struct {
	Addr netip.AddrPort
	// Workload is nil if the mesh knows nobody at Addr. It says what the mesh believes, not what was proved.
	Workload *mesh.Workload
	// ID was proved by a certificate or by the kernel.
	ID identity.ID
}

// Phases are how long each step of opening a connection took; 0 if the step did not run.
type Phases struct {
	Capture, Route, Connect, TLS, Authorize, App time.Duration
}

// Record is all there is to say about one connection. It is the source of its log line, metrics and flow.
type Record struct {
	ID       string // trace id, shared by both reporters
	Reporter Reporter
	Src, Dst Party
	Dialled  netip.AddrPort // what the client asked for, if that is not Dst
	Service  string         // "<namespace>/<name>" of the service dialled
	Waypoint string         // full name of the waypoint's service that the connection was sent to, "" if it was to none
	Verdict  Verdict
	Reason   Reason
	Rule     string
	Detail   string
	Audit    string
	Security Security
	Direct   bool // the kernel made it, without ztunnel
	// Accelerated tells of one that has ended that part of it went past TCP.
	Accelerated bool
	Phases      Phases
	Start       time.Time
	End         time.Time // zero while the connection is open
	// In is what came from the client, Out what went to it, bytes of payload.
	In, Out uint64
}
