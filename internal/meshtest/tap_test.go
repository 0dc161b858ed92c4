package meshtest

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/warren-mesh/warren/internal/nettest"
)

// TestTheTapHearsPlaintextBetweenNodes: without a mesh, over the network that every test mesh has.
func TestTheTapHearsPlaintextBetweenNodes(t *testing.T) {
	client, near, far := nettest.New(t), nettest.New(t), nettest.New(t)
	hub := nettest.Join(t, client, near, far)
	for _, c := range []struct {
		name string
		to   *nettest.NS
		port string
		say  string
		want bool
	}{
		{"another port", far, "8080", "anything", true},
		{"the canary in a tunnel", far, "15008", "....." + Canary, true},
		{"HTTP/2 in a tunnel", far, "15008", preface, true},
		{"what cannot be read", far, "15008", "\x16\x03\x01 gibberish", false},
		{"the same node", near, "8080", Canary, false},
	} {
		for i, family := range []string{"IPv4", "IPv6"} {
			t.Run(c.name+" "+family, func(t *testing.T) {
				heard := &tap{nodes: map[netip.Addr]string{
					client.Addrs[i]: "n1", near.Addrs[i]: "n1", far.Addrs[i]: "n2",
				}}
				t.Run("talk", func(t *testing.T) { // the tap has heard everything once its test has ended
					w := nettest.Listen(t, hub.Path, heard.readable)
					talk(t, client, c.to, net.JoinHostPort(c.to.Addrs[i].String(), c.port), c.say)
					Eventually(t, "the tap hears packets", func() bool { return w.Packets.Load() > 0 })
				})
				if got := heard.first.Load(); (got != nil) != c.want {
					t.Errorf("heard %v, want %v", got != nil, c.want)
				}
			})
		}
	}
}

// talk makes one connection and says one thing on it.
func talk(t *testing.T, from, to *nettest.NS, addr, text string) {
	t.Helper()
	var l net.Listener
	to.Do(t, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c)
		got <- string(all)
	}()
	from.Do(t, func() error {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = io.WriteString(c, text)
		return err
	})
	if s := <-got; s != text {
		t.Errorf("the server got %q, want %q", s, text)
	}
}
