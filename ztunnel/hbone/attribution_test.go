package hbone

import (
	"net/netip"
	"strings"
	"testing"
)

func TestOnlyThePortOfAClientIsAPeersWord(t *testing.T) {
	for _, c := range []struct{ name, forwarded, from, want string }{
		{"the client's own address", `for="10.0.0.3:4711"`, "10.0.0.3:15008", "10.0.0.3:4711"},
		{"IPv6", `for="[fd00::3]:4711"`, "[fd00::3]:15008", "[fd00::3]:4711"},
		{"IPv4-mapped", `for="[::ffff:10.0.0.3]:4711"`, "10.0.0.3:15008", "10.0.0.3:4711"},
		{"behind other parameters", `proto=http;for="10.0.0.3:4711"`, "10.0.0.3:15008", "10.0.0.3:4711"},
		{"nothing", "", "10.0.0.3:15008", "10.0.0.3:15008"},
		{"another's address", `for="10.0.0.4:4711"`, "10.0.0.3:15008", "10.0.0.3:15008"},
		{"another's first", `for="10.0.0.4:1", for="10.0.0.3:4711"`, "10.0.0.3:15008", "10.0.0.3:15008"},
		{"no end", `for="10.0.0.3:4711`, "10.0.0.3:15008", "10.0.0.3:15008"},
		{"no port", `for="10.0.0.3"`, "10.0.0.3:0", "10.0.0.3:0"},
		{"a zone", `for="[fe80::1%x]:1"`, "[fe80::1]:0", "[fe80::1]:0"},
	} {
		if got := (Request{Forwarded: c.forwarded}).Client(netip.MustParseAddrPort(c.from)); got != netip.MustParseAddrPort(c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := ForwardedFor(netip.AddrPort{}); got != "" {
		t.Errorf("of nobody it says %q", got)
	}
}

func TestATraceIDIsTheConnectionsOrANewOne(t *testing.T) {
	id := NewTraceID()
	if got := (Request{Traceparent: TraceparentOf(id)}).TraceID(); got != id {
		t.Errorf("%s came as %s", id, got)
	}
	if got := (Request{Traceparent: TraceparentOf(strings.ToUpper(id))}).TraceID(); got != id {
		t.Errorf("%s in upper case came as %s", id, got)
	}
	for _, header := range []string{"", "00-" + id, "00-" + id[:30] + "xy-" + id[:16] + "-00", "00-" + id[1:] + "-" + id[:16] + "-00"} {
		if got := (Request{Traceparent: header}).TraceID(); len(got) != 32 || got == id {
			t.Errorf("%q: %s", header, got)
		}
	}
}

// FuzzAttribution: whatever a peer says of its client and its trace, the address is the tunnel's, and the id is one.
func FuzzAttribution(f *testing.F) {
	f.Add(`for="10.0.0.3:4711"`, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add(`for="[::ffff:10.0.0.3]:1"`, "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01")
	f.Add(`for="10.0.0.4:1`, "00-"+strings.Repeat("z", 32)+"--")
	f.Fuzz(func(t *testing.T, forwarded, traceparent string) {
		r := Request{Forwarded: forwarded, Traceparent: traceparent}
		from := netip.MustParseAddrPort("10.0.0.3:15008")
		client := r.Client(from)
		if client.Addr() != from.Addr() {
			t.Errorf("%q moves the client to %s", forwarded, client)
		}
		if again := (Request{Forwarded: ForwardedFor(client)}).Client(from); again != client {
			t.Errorf("%s was sent on as %s", client, again)
		}
		id := r.TraceID()
		if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
			t.Errorf("%q: the id is %q", traceparent, id)
		}
		if again := (Request{Traceparent: TraceparentOf(id)}).TraceID(); again != id {
			t.Errorf("%s was sent on as %s", id, again)
		}
	})
}
