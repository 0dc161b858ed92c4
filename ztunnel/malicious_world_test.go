package ztunnel_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/meshtest"
	"github.com/warren-mesh/warren/internal/nettest"
	"github.com/warren-mesh/warren/mesh"
	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/ztunnel"
)

// allowCartOnly has shop/pay name the policy cart-only.
func allowCartOnly(w *mesh.Workload) {
	if w.Name == "pay" {
		w.Policies = []string{"shop/cart-only"}
	}
}

// cartOnly lets shop/cart in.
func cartOnly() *policy.Policy {
	return &policy.Policy{Namespace: "shop", Name: "cart-only", Action: policy.Allow, Rules: []policy.Rule{{
		From: []policy.Source{{Principals: []string{"cluster.local/ns/shop/sa/cart"}}},
	}}}
}

func addPolicy(p *policy.Policy) func(*[]*mesh.Service, *[]*policy.Policy) {
	return func(_ *[]*mesh.Service, ps *[]*policy.Policy) { *ps = append(*ps, p) }
}

// listening returns the ports of a procfs table of TCP sockets that listen on a local address.
func listening(file, local string) (ports []uint16, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != "0A" {
			continue
		}
		addr, hexPort, _ := strings.Cut(fields[1], ":")
		var port uint16
		if _, err := fmt.Sscanf(hexPort, "%X", &port); err != nil {
			return nil, err
		}
		if addr == local {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// enrolled has the mesh believe that a pod is in it, which is outside.
func enrolled(name string) func(*mesh.Workload) {
	return func(w *mesh.Workload) {
		if w.Name == name {
			w.Enrolled = true
		}
	}
}

// rogueServer answers on a pod's tunnel port with a certificate, or none. got returns what clients sent it inside TLS,
// or without.
func rogueServer(t *testing.T, pod *meshtest.Pod, cert *tls.Certificate) (asked func() int64, got func() string) {
	t.Helper()
	var l net.Listener
	pod.NS.Do(t, func() (err error) {
		l, err = net.Listen("tcp", pod.Addr(false, ztunnel.TunnelPort).String())
		return err
	})
	var mu sync.Mutex
	var heard strings.Builder
	var clients sync.WaitGroup
	var n atomic.Int64
	clients.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			clients.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(3 * time.Second))
				if cert == nil {
					io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				} else {
					c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2"}, ClientAuth: tls.RequestClientCert})
				}
				b, _ := io.ReadAll(c)
				mu.Lock()
				defer mu.Unlock()
				heard.Write(b)
			})
		}
	})
	stop := func() { l.Close(); clients.Wait() }
	t.Cleanup(stop)
	return n.Load, func() string { stop(); return heard.String() }
}

// expectReset dials and wants a RST, at connect or after, and not a byte.
func expectReset(t *testing.T, from *nettest.NS, to netip.AddrPort) {
	t.Helper()
	err := from.Run(func() error {
		c, err := net.DialTimeout("tcp", to.String(), 3*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(8 * time.Second))
		_, werr := io.WriteString(c, "canary")
		b, err := io.ReadAll(c)
		if len(b) > 0 {
			t.Errorf("the client read %q", b)
		}
		return errors.Join(werr, err) // a RST is told once
	})
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client's connection ended with %v, want a RST", err)
	}
}
