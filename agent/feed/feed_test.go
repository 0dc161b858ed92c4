package feed

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
)

func workload(uid string, addr byte) *meshv1.Resource {
	return resource.Workload(&meshv1.Workload{
		Uid: uid, Namespace: "a", Name: uid, ServiceAccount: "default", TrustDomain: "cluster.local",
		Addresses: [][]byte{{10, 0, 0, addr}}, Enrolled: true,
	})
}

func root(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func full(version uint64, set ...*meshv1.Resource) *meshv1.Update {
	return &meshv1.Update{Epoch: "e", Version: version, Set: set}
}

func delta(base, version uint64, set ...*meshv1.Resource) *meshv1.Update {
	return &meshv1.Update{Epoch: "e", Base: base, Version: version, Set: set}
}

func mustApply(t testing.TB, s *State, u *meshv1.Update) *State {
	t.Helper()
	next, err := s.Apply(u, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestUpdatesMoveTheStateForward(t *testing.T) {
	s := mustApply(t, Empty(), full(1, workload("one", 1), workload("two", 2)))
	next := mustApply(t, s, &meshv1.Update{Epoch: "e", Base: 1, Version: 5, Set: []*meshv1.Resource{workload("two", 3)}, Removed: []string{"workload/one"}})
	if next.Version != 5 || len(next.Mesh.Workloads()) != 1 || next.Mesh.Workload("two").Addrs[0].String() != "10.0.0.3" {
		t.Errorf("came to version %d, %v", next.Version, next.Mesh.Workloads())
	}
	if s.Version != 1 || len(s.Mesh.Workloads()) != 2 || s.Mesh.Workload("two").Addrs[0].String() != "10.0.0.2" {
		t.Error("the state before was changed in place")
	}
	if other := mustApply(t, next, &meshv1.Update{Epoch: "new run", Version: 1}); len(other.Mesh.Workloads()) != 0 {
		t.Error("another epoch's full state was merged instead of taken")
	}
}

func TestUpdatesAreRefusedWhole(t *testing.T) {
	bundle := resource.Bundle(&meshv1.TrustBundle{TrustDomain: "cluster.local", Roots: [][]byte{root(t)}})
	s := mustApply(t, Empty(), full(3, workload("one", 1), bundle))
	mismatched := workload("two", 2)
	mismatched.Key = "workload/other"
	badAddr := workload("two", 2)
	badAddr.GetWorkload().Addresses = [][]byte{{1, 2, 3}}
	mapped := workload("two", 2)
	mapped.GetWorkload().Addresses = [][]byte{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2}}
	removed := func(keys ...string) *meshv1.Update {
		return &meshv1.Update{Epoch: "e", Base: 3, Version: 4, Removed: keys}
	}
	for name, c := range map[string]struct {
		u    *meshv1.Update
		want string
	}{
		"nothing":            {&meshv1.Update{}, "epoch of 0 bytes"},
		"no version":         {&meshv1.Update{Epoch: "e"}, "version 0"},
		"duplicate":          {delta(3, 3), "version 3 is not newer than 3"},
		"repeated":           {delta(2, 3), "version 3 is not newer than 3"},
		"reordered":          {delta(4, 5), "a delta from version 4, but version 3 is in force"},
		"gone back":          {full(2), "version 2 is older than 3"},
		"other epoch":        {&meshv1.Update{Epoch: "f", Base: 3, Version: 4}, `a delta of epoch "f"`},
		"twice":              {delta(3, 4, workload("two", 2), workload("two", 2)), `names "workload/two" twice`},
		"set and removed":    {&meshv1.Update{Epoch: "e", Base: 3, Version: 4, Set: []*meshv1.Resource{workload("one", 1)}, Removed: []string{"workload/one"}}, "twice"},
		"removes nothing":    {removed("workload/x"), "which is not there"},
		"removes twice":      {removed("workload/one", "workload/one"), "which is not there"},
		"full that removes":  {&meshv1.Update{Epoch: "e", Version: 4, Removed: []string{"workload/one"}}, "replaces everything"},
		"empty resource":     {delta(3, 4, &meshv1.Resource{Key: "x"}), "no content"},
		"wrong key":          {delta(3, 4, mismatched), "it stands under the key"},
		"bad address":        {delta(3, 4, badAddr), "3 bytes that are not an unmapped address"},
		"mapped address":     {delta(3, 4, mapped), "not an unmapped address"},
		"address twice":      {delta(3, 4, workload("two", 1)), "address 10.0.0.1 is also that of a/one"},
		"bad policy":         {delta(3, 4, resource.Policy(&meshv1.AuthorizationPolicy{Namespace: "a", Name: "p"})), "unknown action"},
		"empty source":       {delta(3, 4, resource.Policy(&meshv1.AuthorizationPolicy{Namespace: "a", Name: "p", Action: meshv1.AuthorizationPolicy_ALLOW, Rules: []*meshv1.Rule{{From: []*meshv1.Source{{}}}}})), "no field is set"},
		"bundle removed":     {removed("bundle/cluster.local"), "takes every root of trust domain cluster.local away"},
		"bundle emptied":     {delta(3, 4, resource.Bundle(&meshv1.TrustBundle{TrustDomain: "cluster.local"})), "0 roots"},
		"bundle left out":    {full(4, workload("one", 1)), "takes every root"},
		"bundle of nonsense": {delta(3, 4, resource.Bundle(&meshv1.TrustBundle{TrustDomain: "cluster.local", Roots: [][]byte{{1}}})), "bundle of trust domain"},
		"unknown mtls":       {delta(3, 4, resource.Workload(&meshv1.Workload{Uid: "m", Namespace: "a", Name: "m", ServiceAccount: "default", TrustDomain: "cluster.local", Mtls: &meshv1.MTLS{Mode: 9}})), "unknown mode 9"},
	} {
		got, err := s.Apply(c.u, time.Now())
		if got != nil || !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want …%s…", name, got, err, c.want)
		}
	}
	if next := mustApply(t, s, delta(3, 4, workload("two", 2))); len(next.Mesh.Workloads()) != 2 || s.Version != 3 {
		t.Error("after all that a good update does not apply")
	}
}

func TestStateFileKeepsTheState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := mustApply(t, Empty(), full(7, workload("one", 1), resource.Bundle(&meshv1.TrustBundle{TrustDomain: "cluster.local", Roots: [][]byte{root(t)}})))
	if err := saveState(path, s); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	got, err := loadState(path, time.Now())
	if err != nil || got.Version != 7 || got.Epoch != "e" || !got.FromDisk || got.Mesh.Workload("one") == nil || len(got.Bundle.Roots("cluster.local")) != 1 {
		t.Errorf("loaded %+v, %v", got, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files are left", len(entries))
	}
}

func TestDamagedStateFileIsAnEmptyStateAndALogLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	good, err := encodeState(mustApply(t, Empty(), full(7, workload("one", 1))))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, data := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)-3], "longer": append(bytes.Clone(good), 0), "flipped": flipped,
		"other version": bytes.Replace(good, []byte("/1"), []byte("/2"), 1), "text": []byte("hello"),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		c := New(Config{StateFile: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if c.Store().Load().Version != 0 || !strings.Contains(log.String(), "damaged state file") {
			t.Errorf("%s: version %d, log %q", name, c.Store().Load().Version, log.String())
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if c := New(Config{StateFile: path, Log: slog.New(slog.DiscardHandler)}); c.Store().Load().Version != 0 {
		t.Error("followed a symbolic link")
	}
}

// script is a controller that sends what each connection is given.
type script struct {
	t        *testing.T
	sessions chan *scripted
}

type scripted struct {
	grpc.ClientStream
	ctx      context.Context
	updates  chan *meshv1.Update
	requests chan *meshv1.WatchRequest
	closed   chan struct{} // by the agent
}

func (s *script) Watch(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[meshv1.WatchRequest, meshv1.Update], error) {
	st := &scripted{ctx: ctx, updates: make(chan *meshv1.Update), requests: make(chan *meshv1.WatchRequest, 16), closed: make(chan struct{})}
	select {
	case s.sessions <- st:
		return st, nil
	default:
		return nil, errors.New("nobody is home")
	}
}

func (s *scripted) Header() (metadata.MD, error) { return metadata.MD{}, nil }
func (s *scripted) CloseSend() error             { close(s.closed); return nil }
func (s *scripted) Send(r *meshv1.WatchRequest) error {
	s.requests <- r
	return nil
}

func (s *scripted) Recv() (*meshv1.Update, error) {
	select {
	case u, ok := <-s.updates:
		if !ok {
			return nil, io.EOF
		}
		return u, nil
	case <-s.closed:
		return nil, io.EOF
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// runScript runs a client against a script until the test's function returns.
func runScript(t *testing.T, enforce func(context.Context, *State) error, test func(s *script, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{t: t, sessions: make(chan *scripted, 1)}
		c := New(Config{Client: s, Enforce: enforce, AgentVersion: "v", Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		test(s, c)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

func hello(t *testing.T, s *scripted) string {
	t.Helper()
	h := (<-s.requests).GetHello()
	return fmt.Sprintf("%s@%d", h.GetEpoch(), h.GetVersion())
}

func TestAckComesAfterEnforce(t *testing.T) {
	var release chan struct{} // made inside the bubble
	runScript(t, func(context.Context, *State) error { <-release; return nil }, func(s *script, c *Client) {
		release = make(chan struct{})
		st := <-s.sessions
		if got := hello(t, st); got != "@0" {
			t.Errorf("hello %s", got)
		}
		st.updates <- full(1, workload("one", 1))
		synctest.Wait()
		if len(st.requests) != 0 || c.Status().Enforced != 0 {
			t.Error("acknowledged before it was enforced")
		}
		if c.Store().Load().Version != 1 {
			t.Error("the store does not have what is being enforced")
		}
		close(release)
		if v := (<-st.requests).GetAck().GetVersion(); v != 1 || c.Status().Enforced != 1 {
			t.Errorf("acknowledged %d, status %+v", v, c.Status())
		}
	})
}

func TestRefusedUpdateIsResyncedFromNothingAndDropsNothing(t *testing.T) {
	runScript(t, func(context.Context, *State) error { return nil }, func(s *script, c *Client) {
		st := <-s.sessions
		hello(t, st)
		st.updates <- full(1, workload("one", 1))
		<-st.requests
		st.updates <- delta(9, 10)
		nack := (<-st.requests).GetNack()
		if nack.GetVersion() != 10 || !strings.Contains(nack.GetReason(), "a delta from version 9") {
			t.Errorf("nack %v", nack)
		}
		if c.Store().Load().Mesh.Workload("one") == nil {
			t.Error("a refused update dropped what was in force")
		}
		st = <-s.sessions
		if got := hello(t, st); got != "@0" {
			t.Errorf("hello after a nack %s, want a resync", got)
		}
		if c.Store().Load().Mesh.Workload("one") == nil {
			t.Error("the resync dropped what was in force")
		}
		st.updates <- full(11, workload("two", 2))
		if v := (<-st.requests).GetAck().GetVersion(); v != 11 {
			t.Errorf("acknowledged %d", v)
		}
		close(st.updates)
		st = <-s.sessions
		if got := hello(t, st); got != "e@11" {
			t.Errorf("hello after a lost stream %s, want to go on from 11", got)
		}
	})
}

func TestReconnectsBackOffAndStartOverAfterProgress(t *testing.T) {
	runScript(t, func(context.Context, *State) error { return nil }, func(s *script, _ *Client) {
		var last time.Time
		var waits []time.Duration
		for i := range 12 {
			st := <-s.sessions
			hello(t, st)
			if now := time.Now(); i > 0 {
				waits = append(waits, now.Sub(last))
			}
			last = time.Now()
			if i == 10 {
				st.updates <- full(1)
				<-st.requests
			}
			close(st.updates)
		}
		for i, w := range waits[:10] {
			limit := min(minBackoff<<i, maxBackoff)
			if w < limit/2 || w > limit {
				t.Errorf("wait %d is %v, want %v to %v", i, w, limit/2, limit)
			}
		}
		if w := waits[10]; w > minBackoff {
			t.Errorf("after progress the wait is %v", w)
		}
	})
}

func FuzzUpdate(f *testing.F) {
	start := mustApply(f, Empty(), full(3, workload("one", 1)))
	for _, u := range []*meshv1.Update{
		full(4, workload("two", 2)), delta(3, 4, workload("one", 2)), {Epoch: "e", Base: 3, Version: 4, Removed: []string{"workload/one"}},
		delta(3, 4, resource.Route(&meshv1.Route{Kind: meshv1.Route_HTTP, Namespace: "shop", Name: "web",
			Rules: []*meshv1.RouteRule{{Matches: []*meshv1.RouteMatch{{Path: "/a.*", PathKind: meshv1.RouteMatch_REGEX}}}}})),
		delta(3, 4, resource.Traffic(&meshv1.TrafficPolicy{Namespace: "shop", Name: "web", Targets: []string{"Service shop/web"}})),
	} {
		b, err := proto.Marshal(u)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var u meshv1.Update
		if proto.Unmarshal(data, &u) != nil {
			return
		}
		next, err := start.Apply(&u, time.Now())
		if (next == nil) == (err == nil) {
			t.Fatal("neither a state nor an error, or both")
		}
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("refused by %v", err)
			}
			return
		}
		if next.Mesh == nil || next.Policies == nil || next.Version != u.GetVersion() {
			t.Fatalf("accepted as %+v", next)
		}
		encoded, err := encodeState(next)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(encoded, time.Now()); err != nil {
			t.Fatalf("what was accepted cannot be kept: %v", err)
		}
	})
}

func FuzzStateFile(f *testing.F) {
	good, err := encodeState(mustApply(f, Empty(), full(7, workload("one", 1))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:60])
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data, time.Now())
		if err == nil && (s.Version == 0 || s.Mesh == nil) || err != nil && !errors.Is(err, ErrStateFile) {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}

// What is not decoded again is what it would have been decoded to, over any number of updates.
func TestDecodingOnlyWhatIsNewIsDecodingAll(t *testing.T) {
	s := mustApply(t, Empty(), full(1, workload("one", 1), workload("two", 2)))
	for i, u := range []*meshv1.Update{
		delta(1, 2, workload("one", 3)), delta(2, 3), delta(3, 4, workload("three", 1)),
		{Epoch: "e", Base: 4, Version: 5, Removed: []string{"workload/two"}}, full(6, workload("two", 9)),
	} {
		s = mustApply(t, s, u)
		again := &meshv1.Update{Epoch: "e", Version: s.Version}
		for _, r := range s.resources {
			again.Set = append(again.Set, r)
		}
		if fresh := mustApply(t, Empty(), again); !reflect.DeepEqual(fresh.Mesh, s.Mesh) || s.Mesh.Version != u.GetVersion() {
			t.Errorf("update %d: %v at %d, decoded afresh %v", i, s.Mesh.Workloads(), s.Mesh.Version, fresh.Mesh.Workloads())
		}
	}
}
