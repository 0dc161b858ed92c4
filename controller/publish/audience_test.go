package publish

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/api/resource"
)

// holder is what one receiver holds, by the rules that agents hold updates to.
type holder struct {
	version uint64
	state   map[string]string // key → content
}

// apply returns what an update makes of h, which stays as it is.
func (h holder) apply(e *Encoded) (holder, error) {
	var u meshv1.Update
	if err := proto.Unmarshal(slices.Concat(e.shared, e.own), &u); err != nil {
		return h, err
	}
	out := holder{u.GetVersion(), make(map[string]string)}
	if u.GetBase() != 0 {
		if u.GetBase() != h.version {
			return h, fmt.Errorf("a delta from %d, but %d is held", u.GetBase(), h.version)
		}
		maps.Copy(out.state, h.state)
	}
	seen := make(map[string]bool)
	for _, key := range u.GetRemoved() {
		if _, there := out.state[key]; !there || seen[key] {
			return h, fmt.Errorf("%s is removed, which is not there, or twice", key)
		}
		seen[key] = true
		delete(out.state, key)
	}
	for _, r := range u.GetSet() {
		if seen[r.GetKey()] {
			return h, fmt.Errorf("%s is named twice", r.GetKey())
		}
		seen[r.GetKey()] = true
		out.state[r.GetKey()] = r.GetWorkload().GetApp()
	}
	return out, nil
}

// whole is one state to publish.
type whole struct {
	resources map[string]*meshv1.Resource
	audience  map[string][]string
}

// next changes a few things about a state.
func (w whole) next(rnd *rand.Rand) whole {
	out := whole{maps.Clone(w.resources), maps.Clone(w.audience)}
	for range 1 + rnd.IntN(4) {
		name := "k" + strconv.Itoa(rnd.IntN(12))
		key := "workload/" + name
		switch rnd.IntN(4) {
		case 0:
			delete(out.resources, key)
			delete(out.audience, key)
		case 1:
			out.resources[key] = resource.Workload(&meshv1.Workload{Uid: name, App: strconv.Itoa(rnd.IntN(3))})
		case 2:
			if out.resources[key] != nil {
				everyone := []string{"w", "n3", "n1", "n2"}
				out.audience[key] = slices.DeleteFunc(everyone, func(string) bool { return rnd.IntN(2) == 0 })
			}
		case 3:
			delete(out.audience, key)
		}
	}
	return out
}

// seenBy is what somebody who is known by audiences must hold.
func (w whole) seenBy(audiences []string) map[string]string {
	out := make(map[string]string)
	for key, r := range w.resources {
		to, some := w.audience[key]
		if !some || slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(to, a) }) {
			out[key] = r.GetWorkload().GetApp()
		}
	}
	return out
}

// receiver is one that comes and goes, and remembers everything that it ever held.
type receiver struct {
	audiences []string
	held      []holder
}

// Whatever is published, and from whatever version a receiver comes back, it then holds exactly what is for it.
func TestReceiversHoldWhatIsForThem(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := New("e")
		var now whole
		receivers := []*receiver{{}}
		for _, a := range [][]string{{"n1"}, {"n2"}, {"w"}, {"w"}, {"n3", "w"}, {"stranger"}} {
			receivers = append(receivers, &receiver{audiences: a})
		}
		for step := range maxVersions + 60 {
			if now.resources == nil {
				now = whole{make(map[string]*meshv1.Resource), make(map[string][]string)}
			}
			now = now.next(rnd)
			p.Publish(encode(t, now.resources), now.audience, time.Now())
			for i, r := range receivers {
				if rnd.IntN(3) == 0 {
					continue
				}
				if err := r.comeBack(p, rnd, now); err != nil {
					t.Fatalf("seed %d, step %d, receiver %d: %v", seed, step, i, err)
				}
			}
			if err := checkCache(p); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
		}
	}
}

// comeBack brings a receiver from something that it held once to what is there now.
func (r *receiver) comeBack(p *Publisher, rnd *rand.Rand, now whole) error {
	var from holder
	if n := len(r.held); n > 0 {
		from = r.held[n-1-min(n-1, int(rnd.ExpFloat64()*4))]
		if rnd.IntN(20) == 0 {
			from = r.held[rnd.IntN(n)]
		}
	}
	base := p.base("e", from.version)
	e, version := p.update(base, r.audiences)
	to, err := from.apply(e)
	if err != nil {
		return fmt.Errorf("from %d: %w", base, err)
	}
	if want := now.seenBy(r.audiences); version != to.version || !maps.Equal(to.state, want) {
		return fmt.Errorf("from %d to %d: holds %v, want %v", base, to.version, to.state, want)
	}
	r.held = append(r.held, to)
	return nil
}

// checkCache checks that what is kept is counted, and of the newest version.
func checkCache(p *Publisher) error {
	size := 0
	for _, d := range p.deltas {
		size += d.size
		for _, b := range d.parts {
			size += len(b)
		}
		if d.content != p.now {
			return fmt.Errorf("a delta to version %d is kept at %d", d.version, p.now.version)
		}
	}
	if size != p.cacheSize {
		return fmt.Errorf("%d bytes are kept, %d are counted", size, p.cacheSize)
	}
	return nil
}

func TestOnlyItsAudienceHearsOfAResource(t *testing.T) {
	p := New("e")
	_, client := served(t, p, nil)
	send := func(audience map[string][]string, names ...string) {
		t.Helper()
		p.Publish(encode(t, world(names...)), audience, time.Now())
	}
	send(map[string][]string{"workload/b": {"n1"}}, "a", "b")
	one, two := connect(t, client, "n1", "", 0), connect(t, client, "n2", "", 0)
	one.want("0→1 +a +b")
	two.want("0→1 +a")
	one.ack(1)
	two.ack(1)
	send(map[string][]string{"workload/b": {"n2"}}, "a", "b") // moves
	one.want("1→2 -b")
	two.want("1→2 +b")
	one.ack(2)
	two.ack(2)
	send(map[string][]string{"workload/b": {"n1", "n2"}}, "a", "b") // n2 has it already
	one.want("2→3 +b")
	two.want("2→3")
	one.ack(3)
	two.ack(3)
	send(map[string][]string{"workload/b": {"n1", "n2"}}, "a", "b=2")
	one.want("3→4 +b")
	two.want("3→4 +b")
	if v := p.ChangedIn("workload/b"); v != 4 {
		t.Errorf("b changed in %d", v)
	}
	send(map[string][]string{"workload/b": {"n2"}}, "a", "b=2")
	if v := p.ChangedIn("workload/b"); v != 4 {
		t.Errorf("b changed in %d: only whom it is for did", v)
	}
	connect(t, client, "n3", "e", 2).want("2→5")
	connect(t, client, "n1", "e", 4).want("4→5 -b")
}

// What more than one receiver asks for is encoded once; what only one can ask for is not kept.
func TestSharedPartsAreKept(t *testing.T) {
	p := New("e")
	audience := map[string][]string{"workload/a": {"w"}, "workload/b": {"n1"}}
	p.Publish(encode(t, world("a", "b")), audience, time.Now())
	p.update(0, []string{"n1"})
	p.update(0, []string{"w"})
	before := p.cacheSize
	second, _ := p.update(0, []string{"w"})
	third, _ := p.update(0, []string{"w"})
	if len(second.own) == 0 || &second.own[0] != &third.own[0] || p.cacheSize != before+len(second.own) {
		t.Errorf("the waypoints' part is not kept: %d bytes before, %d now", before, p.cacheSize)
	}
}

func TestCodecSendsBothParts(t *testing.T) {
	codec, err := Codec()
	if err != nil {
		t.Fatal(err)
	}
	got, err := codec.Marshal(&Encoded{shared: []byte("shared"), own: []byte("own")})
	if err != nil || !bytes.Equal(got.Materialize(), []byte("sharedown")) {
		t.Errorf("%q, %v", got.Materialize(), err)
	}
	if got, err = codec.Marshal(&Encoded{shared: []byte("shared")}); err != nil || len(got) != 1 {
		t.Errorf("%d buffers, %v", len(got), err)
	}
}

// crowd is a mesh of 1,000 nodes and 5,000 pods with 200 policies, each of which a tenth of the nodes must have.
func crowd(b *testing.B, generation int) whole {
	b.Helper()
	w := whole{make(map[string]*meshv1.Resource), make(map[string][]string)}
	for i := range 5000 {
		app := "crowd-" + strconv.Itoa(i%50)
		if i == 0 {
			app += strconv.Itoa(generation)
		}
		r := resource.Workload(&meshv1.Workload{
			Uid: fmt.Sprintf("7c9e6679-7425-40de-944b-%012d", i), Namespace: "shop", Name: "crowd-" + strconv.Itoa(i),
			ServiceAccount: "default", TrustDomain: "cluster.local", Node: "node-" + strconv.Itoa(i%1000), App: app,
			Addresses: [][]byte{{10, 0, byte(i >> 8), byte(i)}}, Enrolled: true,
			Policies: []string{"shop/policy-" + strconv.Itoa(i%200)},
		})
		w.resources[r.GetKey()] = r
	}
	for i := range 200 {
		name := "policy-" + strconv.Itoa(i)
		policy := &meshv1.AuthorizationPolicy{Namespace: "shop", Name: name, Action: meshv1.AuthorizationPolicy_ALLOW}
		if i == 0 {
			to := []*meshv1.Operation{{Ports: []uint32{uint32(8000 + generation)}}}
			policy.Rules = append(policy.Rules, &meshv1.Rule{To: to})
		}
		for j := range 10 {
			principals := []string{fmt.Sprintf("cluster.local/ns/shop/sa/client-%d", j)}
			policy.Rules = append(policy.Rules, &meshv1.Rule{From: []*meshv1.Source{{Principals: principals}}})
		}
		r := resource.Policy(policy)
		w.resources[r.GetKey()] = r
		for node := range 100 {
			w.audience[r.GetKey()] = append(w.audience[r.GetKey()], "node-"+strconv.Itoa((i+node*10)%1000))
		}
	}
	return w
}

// BenchmarkFanOut is what one receiver costs, in time and in bytes, once what all share is encoded.
func BenchmarkFanOut(b *testing.B) {
	p := New("e")
	for generation := range 2 {
		w := crowd(b, generation)
		p.Publish(encode(b, w.resources), w.audience, time.Now())
	}
	for _, base := range []uint64{0, 1} {
		b.Run(fmt.Sprintf("from %d", base), func(b *testing.B) {
			var shared, own int
			i := 0
			for b.Loop() {
				e, _ := p.update(base, []string{"node-" + strconv.Itoa(i%1000)})
				clear(p.deltas[base].parts) // each node asks once
				shared, own = len(e.shared), own+len(e.own)
				i++
			}
			b.ReportMetric(float64(shared), "shared-B")
			b.ReportMetric(float64(own)/float64(i), "own-B")
		})
	}
}

// BenchmarkPublish is what a version costs before anybody asks for it.
func BenchmarkPublish(b *testing.B) {
	p := New("e")
	var encoded []map[string][]byte
	var audiences []map[string][]string
	for generation := range 2 {
		w := crowd(b, generation)
		encoded, audiences = append(encoded, encode(b, w.resources)), append(audiences, w.audience)
	}
	i := 0
	for b.Loop() {
		p.Publish(encoded[i%2], audiences[i%2], time.Now())
		i++
	}
}

// BenchmarkEncode is what the first costs who does.
func BenchmarkEncode(b *testing.B) {
	p := New("e")
	for generation := range 2 {
		w := crowd(b, generation)
		p.Publish(encode(b, w.resources), w.audience, time.Now())
	}
	for _, base := range []uint64{0, 1} {
		b.Run(fmt.Sprintf("from %d", base), func(b *testing.B) {
			for b.Loop() {
				clear(p.deltas)
				p.cacheSize = 0
				p.update(base, []string{"node-1"})
			}
		})
	}
}
