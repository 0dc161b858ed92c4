package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/rpc"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/warren-mesh/warren/internal/sample"
)

// lastWords is how long a pod's network outlives its app, as with a runtime that ends one and then the other: connections
// that were closed end between both sides, rather than stay in the node's conntrack table to lead others nowhere.
const lastWords = time.Second

// bareConf is what the process on the node needs to know of it.
type bareConf struct {
	Plugin, Log string
	Ranges      []netip.Prefix
}

func (c bareConf) encode() (string, error) {
	raw, err := json.Marshal(c)
	return string(raw), err
}

// bareServer makes bare pods on the node that its process is on.
type bareServer struct {
	chained  chained
	gateways []netip.Addr // the first address of each range, as IPAM plug-ins have it

	mu   sync.Mutex
	pods map[string]*barePod
}

// barePod is one that lives.
type barePod struct {
	BarePod
	netns    string
	ns       netns.NsHandle
	result   []byte // of the plug-in that would have made the network
	server   *http.Server
	answered atomic.Int64
}

// serveBare serves until its caller goes, and then removes what is left.
func serveBare(raw string, conn io.ReadWriteCloser) (exit int) {
	var conf bareConf
	err := json.Unmarshal([]byte(raw), &conf)
	s := &bareServer{pods: map[string]*barePod{}}
	if err == nil {
		s.chained, err = findChained(conf.Plugin, conf.Log)
	}
	for _, r := range conf.Ranges {
		s.gateways = append(s.gateways, r.Masked().Addr().Next())
	}
	server := rpc.NewServer()
	if err == nil {
		err = server.RegisterName("Bare", s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bare pods:", err)
		return 1
	}
	server.ServeConn(conn)
	for uid := range s.pods {
		var answered int
		if err := s.Remove(uid, &answered); err != nil {
			fmt.Fprintln(os.Stderr, "bare pods:", err)
			exit = 1
		}
	}
	return exit
}

// Add implements [Bare.Add].
func (s *bareServer) Add(want BarePod, took *time.Duration) error {
	p := &barePod{BarePod: want, netns: filepath.Join("/run/netns", "bare-"+want.UID)}
	if err := s.start(p, took); err != nil {
		return errors.Join(fmt.Errorf("bare pod %s/%s: %w", p.Namespace, p.Name, err), s.end(p))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[p.UID] = p
	return nil
}

func (s *bareServer) start(p *barePod, took *time.Duration) (err error) {
	if p.ns, err = makeNetns(p.netns); err != nil {
		return err
	}
	mac, err := p.join(s.gateways)
	if err != nil {
		return err
	}
	if p.result, err = s.chained.before(p, mac); err != nil {
		return err
	}
	start := time.Now()
	if err := s.chained.add(p); err != nil {
		return err
	}
	*took = time.Since(start)
	return p.serve()
}

// serve starts the pod's server, as its containers come after its network.
func (p *barePod) serve() error {
	var l net.Listener
	err := inNetns(p.ns, func() (err error) {
		l, err = net.Listen("tcp", ":8080")
		return err
	})
	if err != nil {
		return err
	}
	p.server = sample.NewHTTPServer(p.Name)
	app := p.server.Handler
	p.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		app.ServeHTTP(w, r)
		p.answered.Add(1)
	})
	go func() { _ = p.server.Serve(l) }() // until it is shut down
	return nil
}

// Remove implements [Bare.Remove].
func (s *bareServer) Remove(uid string, answered *int) error {
	s.mu.Lock()
	p := s.pods[uid]
	delete(s.pods, uid)
	s.mu.Unlock()
	if p == nil {
		return fmt.Errorf("there is no bare pod %s", uid)
	}
	err := s.end(p)
	*answered = int(p.answered.Load())
	return err
}

// end removes a pod as far as it was made, in the order of a kubelet: the app, the plug-in's word, the network.
func (s *bareServer) end(p *barePod) (err error) {
	if p.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if p.server.Shutdown(ctx) != nil {
			_ = p.server.Close() // somebody has not read an answer
		}
		time.Sleep(lastWords)
	}
	if p.result != nil {
		err = s.chained.del(p)
	}
	err = errors.Join(err, p.leave())
	if p.ns.IsOpen() {
		err = errors.Join(err, p.ns.Close(), unix.Unmount(p.netns, unix.MNT_DETACH), os.Remove(p.netns))
	}
	if err != nil {
		err = fmt.Errorf("end bare pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return err
}
