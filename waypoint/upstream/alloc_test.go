package upstream

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/warren-mesh/warren/route"
)

// TestPickAllocatesLittle holds the budget: the pick itself, and what the compiler makes of the question.
func TestPickAllocatesLittle(t *testing.T) {
	f := newField(t)
	f.manyPods(100)
	for kind := route.PeakEWMA; kind <= route.ConsistentHash; kind++ {
		a := f.balanced(kind)()
		a.Traffic.LoadBalancing.HashSource = true
		if n := testing.AllocsPerRun(200, func() { f.pick(a).Release() }); n > 3 {
			t.Errorf("kind %d: %v allocations a pick, more than 3", kind, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	kinds := map[string]route.Balance{"ewma": route.PeakEWMA, "roundrobin": route.RoundRobin, "hash": route.ConsistentHash}
	for _, pods := range []int{3, 100, 1000} {
		for name, kind := range kinds {
			b.Run(fmt.Sprintf("%s/%d", name, pods), func(b *testing.B) {
				f := newField(b)
				f.manyPods(pods)
				lb := &route.LoadBalancing{Kind: kind, HashSource: true}
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					a := f.ask()
					a.Traffic.LoadBalancing = lb
					for pb.Next() {
						p, err := f.u.Pick(a)
						if err != nil {
							b.Error(err)
							return
						}
						p.Release()
					}
				})
			})
		}
	}
}

// BenchmarkRoundTrip has net/http's own transport beside it.
func BenchmarkRoundTrip(b *testing.B) {
	for _, tt := range protocols {
		f := newField(b)
		f.pod("a", "10.0.0.1", says("hello"))
		f.publish()
		b.Run(tt.name+"/upstream", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				a := f.ask()
				a.HTTP2 = tt.http2
				for pb.Next() {
					if _, err := f.do(a, a.Request); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
		b.Run(tt.name+"/net-http", func(b *testing.B) {
			own := &http.Transport{Protocols: new(http.Protocols), MaxIdleConnsPerHost: 100, DisableCompression: true}
			own.Protocols.SetHTTP1(!tt.http2)
			own.Protocols.SetUnencryptedHTTP2(tt.http2)
			defer own.CloseIdleConnections()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				r, err := http.NewRequest(http.MethodGet, "http://"+f.servers[mustAddrPort("10.0.0.1:8080")]+"/", nil)
				for err == nil && pb.Next() {
					var res *http.Response
					if res, err = own.RoundTrip(r); err == nil {
						_, err = io.ReadAll(res.Body)
					}
				}
				if err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkWorld is what a change of the world costs the first request after it.
func BenchmarkWorld(b *testing.B) {
	for _, pods := range []int{10, 1000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			f := newField(b)
			f.manyPods(pods)
			a := f.ask()
			f.pick(a).Release()
			key := a.key()
			for b.Loop() {
				g := (*f.u.groups.Load())[key]
				g.view.Store(nil)
				f.u.refresh(g)
			}
		})
	}
}
