package upstream

import (
	"fmt"
	"testing"

	"github.com/warren-mesh/warren/route"
)

// TestPickAllocatesLittle holds the budget: the pick itself, and what the compiler makes of the question.
func TestPickAllocatesLittle(t *testing.T) {
	f := newField(t)
	f.manyPods(100)
	for _, kind := range []route.Balance{route.PeakEWMA, route.RoundRobin, route.LeastRequests, route.Random, route.ConsistentHash} {
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
