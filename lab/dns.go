package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	clusterDomain = "cluster.local."
	dnsTTL        = 5 // seconds, as CoreDNS gives cluster names
)

// zone is what the lab's DNS knows: fully qualified lower-case names and their addresses.
type zone map[string][]netip.Addr

// makeZone names every service and pod of a plan, after the Kubernetes DNS specification 1.1.0, and pods by their names
// too. A name without addresses exists but answers nothing.
func makeZone(pl *plan) zone {
	z := zone{}
	for _, s := range pl.Services {
		name := s.Name + "." + s.Namespace + ".svc." + clusterDomain
		z[name] = s.VIPs
		if len(s.VIPs) > 0 {
			continue
		}
		for _, pod := range pl.backends(s) {
			z[name] = append(z[name], pod.Addrs...)
			z[pod.Name+"."+name] = pod.Addrs
		}
	}
	for _, pod := range pl.Pods {
		suffix := "." + pod.Namespace + ".pod." + clusterDomain
		z[pod.Name+suffix] = pod.Addrs
		for _, addr := range pod.Addrs {
			z[dashed(addr)+suffix] = []netip.Addr{addr}
		}
	}
	return z
}

// dashed is an address as a DNS label.
func dashed(a netip.Addr) string { return strings.NewReplacer(".", "-", ":", "-").Replace(a.String()) }

// pointers maps reverse names to forward ones, but not to those that only spell the address.
func (z zone) pointers() map[string]string {
	reverse := map[string]string{}
	for name, addrs := range z {
		for _, addr := range addrs {
			if strings.HasPrefix(name, dashed(addr)+".") {
				continue
			}
			// Of several names the first in order wins, so that answers do not change between reads.
			if ptr, err := dns.ReverseAddr(addr.String()); err == nil && (reverse[ptr] == "" || name < reverse[ptr]) {
				reverse[ptr] = name
			}
		}
	}
	return reverse
}

func writeZone(p paths, pl *plan) error {
	return writeJSON(p.zone(), makeZone(pl))
}

// dnsServer answers from a zone file. It looks at the file's time on every query, so an answer is never older than
// the file.
type dnsServer struct {
	path string

	mu       sync.Mutex
	seen     os.FileInfo
	names    zone
	reversed map[string]string
}

// serveDNS answers on port 53 of the calling thread's network namespace until the process is told to end. It writes
// what went wrong to report before it is ready, and closes report once it is.
func serveDNS(zoneFile string, report *os.File) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	s := &dnsServer{path: zoneFile}
	if err := s.refresh(); err != nil {
		return err
	}
	// Sockets belong to the namespace of the thread that makes them; who reads them later does not matter.
	pc, err := net.ListenPacket("udp", "[::]:53")
	if err != nil {
		return fmt.Errorf("serve DNS: %w", err)
	}
	l, err := net.Listen("tcp", "[::]:53")
	if err != nil {
		return fmt.Errorf("serve DNS: %w", err)
	}
	if err := report.Close(); err != nil {
		return fmt.Errorf("serve DNS: report: %w", err)
	}
	servers := []*dns.Server{{PacketConn: pc, Handler: s}, {Listener: l, Handler: s, MaxTCPQueries: 64}}
	var g errgroup.Group
	for _, server := range servers {
		g.Go(server.ActivateAndServe)
	}
	<-ctx.Done()
	drain, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, server := range servers {
		err = errors.Join(err, server.ShutdownContext(drain))
	}
	return errors.Join(err, g.Wait())
}

// refresh rereads the zone if its file has changed.
func (s *dnsServer) refresh() error {
	info, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("read zone: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen != nil && os.SameFile(info, s.seen) && info.ModTime().Equal(s.seen.ModTime()) {
		return nil
	}
	text, err := os.ReadFile(s.path)
	if err != nil {
		return fmt.Errorf("read zone: %w", err)
	}
	var z zone
	if err := json.Unmarshal(text, &z); err != nil {
		return fmt.Errorf("read zone %s: %w", s.path, err)
	}
	s.seen, s.names, s.reversed = info, z, z.pointers()
	return nil
}

// ServeDNS answers one query. It implements dns.Handler.
func (s *dnsServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	switch {
	case len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery:
		m.SetRcode(q, dns.RcodeNotImplemented)
	case s.refresh() != nil:
		m.SetRcode(q, dns.RcodeServerFailure)
	default:
		s.answer(m.SetReply(q), q.Question[0])
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = int(max(opt.UDPSize(), dns.MinMsgSize))
		m.SetEdns0(opt.UDPSize(), false)
	}
	if w.LocalAddr().Network() == "tcp" {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	_ = w.WriteMsg(m) // the client asks again
}

func (s *dnsServer) answer(m *dns.Msg, q dns.Question) {
	m.Authoritative = true
	name := strings.ToLower(dns.Fqdn(q.Name))
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: dnsTTL}
	s.mu.Lock()
	addrs, known := s.names[name]
	forward := s.reversed[name]
	s.mu.Unlock()
	if !known && forward == "" {
		m.Rcode = dns.RcodeNameError
		return
	}
	if q.Qtype == dns.TypePTR && forward != "" {
		m.Answer = append(m.Answer, &dns.PTR{Hdr: head, Ptr: forward})
	}
	for _, addr := range addrs {
		switch {
		case q.Qtype == dns.TypeA && addr.Is4():
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: addr.AsSlice()})
		case q.Qtype == dns.TypeAAAA && addr.Is6():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: head, AAAA: addr.AsSlice()})
		}
	}
}
