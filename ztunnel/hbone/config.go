package hbone

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// Config limits one connection. The zero value of a field means its default.
type Config struct {
	// MaxStreams is how many streams the peer may have open, and how many handlers may run. Default 200. Server only.
	MaxStreams uint32
	// StreamWindow is the number of bytes a new stream's peer may send unread. Default 64 KiB. More costs memory for
	// every slow reader, less costs throughput on the first round trips.
	StreamWindow uint32
	// MaxStreamWindow is how far a stream's window may grow by the measured bandwidth-delay product. Default 4 MiB.
	MaxStreamWindow uint32
	// ConnWindow is the number of bytes all streams' peers together may have in flight. Default 16 MiB.
	ConnWindow uint32
	// MaxFrame is the largest frame that is read, in bytes. Default 64 KiB, at least 16 KiB.
	MaxFrame uint32
	// HeaderList is the largest decoded header list that is read, as RFC 9113 section 6.5.2 counts it. Default 16 KiB.
	HeaderList uint32

	// PingInterval is the silence after which the peer is asked whether it lives. Default 10 s.
	PingInterval time.Duration
	// PingTimeout is how long it may take to answer, by any frame. Default 5 s. Timeouts are checked four times in
	// the shortest of them, so they fire up to a quarter of that late.
	PingTimeout time.Duration
	// FirstRequest is how long the peer may take to its first request. Default 5 s. Server only.
	FirstRequest time.Duration
	// IdleTimeout is how long a connection may carry no stream. Default 10 min. Server only: a client's pool decides.
	IdleTimeout time.Duration
	// WriteTimeout is how long one write of the socket may take. Default 20 s.
	WriteTimeout time.Duration
	// DrainTimeout is how long streams may go on after ServeConn's context ends. Default 5 s. Server only.
	DrainTimeout time.Duration

	// MaxResets is how many streams a second may end in a reset before they were answered, or by an offence
	// (CVE-2023-44487, CVE-2025-8671). Default 100, with a burst of twice that.
	MaxResets int
	// MaxJunk is how many frames a second may come that carry nothing: PING, SETTINGS, PRIORITY, empty DATA, unknown
	// types, frames for closed streams. Default 1000, with a burst of twice that.
	MaxJunk int

	// Budget bounds the receive buffers of all connections that share it. Default one of its own, of 64 MiB.
	Budget *Budget
	// Stats counts for all connections that share it. Default one of its own.
	Stats *Stats
	// Log receives what ends a connection, at debug level, and panics of handlers, at error level. Default nothing.
	Log *slog.Logger
}

const (
	minFrame    = 16 << 10 // RFC 9113 section 4.2: every peer takes that much
	maxWindow   = 1<<31 - 1
	defaultSize = 65535 // RFC 9113 section 6.9.2: windows before SETTINGS
)

// withDefaults returns c with every zero field set and every other one inside what the protocol allows.
func (c Config) withDefaults() Config {
	c.MaxStreams = or(c.MaxStreams, 200)
	c.StreamWindow = min(or(c.StreamWindow, 64<<10), maxWindow)
	c.MaxStreamWindow = min(max(or(c.MaxStreamWindow, 4<<20), c.StreamWindow), maxWindow)
	c.ConnWindow = min(max(or(c.ConnWindow, 16<<20), defaultSize), maxWindow)
	c.MaxFrame = min(max(or(c.MaxFrame, 64<<10), minFrame), 1<<24-1)
	c.HeaderList = or(c.HeaderList, 16<<10)
	c.PingInterval = or(c.PingInterval, 10*time.Second)
	c.PingTimeout = or(c.PingTimeout, 5*time.Second)
	c.FirstRequest = or(c.FirstRequest, 5*time.Second)
	c.IdleTimeout = or(c.IdleTimeout, 10*time.Minute)
	c.WriteTimeout = or(c.WriteTimeout, 20*time.Second)
	c.DrainTimeout = or(c.DrainTimeout, 5*time.Second)
	c.MaxResets = or(c.MaxResets, 100)
	c.MaxJunk = or(c.MaxJunk, 1000)
	if c.Budget == nil {
		c.Budget = NewBudget(64 << 20)
	}
	if c.Stats == nil {
		c.Stats = new(Stats)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// period is how often a connection looks after its timeouts.
func (c Config) period() time.Duration {
	shortest := min(c.PingInterval, c.PingTimeout, c.FirstRequest, c.IdleTimeout, c.WriteTimeout, c.DrainTimeout)
	return max(shortest/4, time.Millisecond)
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// Stats counts what connections do. All fields only grow, so a gauge is the difference of two.
type Stats struct {
	ConnsOpened    atomic.Int64
	ConnsClosed    atomic.Int64
	StreamsOpened  atomic.Int64
	StreamsClosed  atomic.Int64
	StreamsRefused atomic.Int64 // answered with another status than 200 or with REFUSED_STREAM, by either side
	ResetsSent     atomic.Int64
	ResetsReceived atomic.Int64
	BytesSent      atomic.Int64 // of DATA payload
	BytesReceived  atomic.Int64
	PeersGone      atomic.Int64 // PINGs that nobody answered and writes that nobody read
	Offences       atomic.Int64 // connections ended for a violation or a limit
	BudgetResets   atomic.Int64 // streams reset because the Budget was full
	HandlerPanics  atomic.Int64
}
