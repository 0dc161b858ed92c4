package fault

import (
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/warren-mesh/warren/route"
)

func TestLots(t *testing.T) {
	const second = time.Second
	both := &route.Fault{DelayPerMyriad: 1, Delay: second, AbortPerMyriad: 1, AbortStatus: 500}
	tests := []struct {
		name   string
		fault  *route.Fault
		n1, n2 uint32
		delay  time.Duration
		abort  int
	}{
		{"no fault", nil, 0, 0, 0, 0},
		{"nothing in it", &route.Fault{}, 0, 0, 0, 0},
		{"all delayed", &route.Fault{DelayPerMyriad: 10_000, Delay: second}, math.MaxUint32, 0, second, 0},
		{"none delayed", &route.Fault{DelayPerMyriad: 0, Delay: second}, 0, 0, 0, 0},
		{"all aborted", &route.Fault{AbortPerMyriad: 10_000, AbortStatus: 503}, 0, math.MaxUint32, 0, 503},
		{"half: in", &route.Fault{DelayPerMyriad: 5000, Delay: second}, 1<<31 - 1, 0, second, 0},
		{"half: out", &route.Fault{DelayPerMyriad: 5000, Delay: second}, 1 << 31, 0, 0, 0},
		{"one part in 10,000", &route.Fault{AbortPerMyriad: 1, AbortStatus: 500}, 0, 429_496, 0, 500},
		{"the next part", &route.Fault{AbortPerMyriad: 1, AbortStatus: 500}, 0, 429_497, 0, 0},
		{"both, each by its lot", both, 0, 0, second, 500},
		{"the other's lot does not count", &route.Fault{DelayPerMyriad: 1, Delay: second}, math.MaxUint32, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			delay, abort := Of(route.Traffic{Fault: tt.fault}, r, tt.n1, tt.n2)
			if delay != tt.delay || abort != tt.abort {
				t.Errorf("delay %v, abort %d; want %v, %d", delay, abort, tt.delay, tt.abort)
			}
		})
	}
}

func TestOnlyRequestsWithTheHeaders(t *testing.T) {
	traffic := route.Traffic{Fault: &route.Fault{
		AbortPerMyriad: 10_000, AbortStatus: 418, Headers: []route.ValueMatch{{Name: "X-Tester", Value: "eve"}},
	}}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if _, abort := Of(traffic, r, 0, 0); abort != 0 {
		t.Errorf("a request without the header was aborted with %d", abort)
	}
	r.Header.Set("X-Tester", "eve")
	if _, abort := Of(traffic, r, 0, 0); abort != 418 {
		t.Errorf("abort %d of a request with the header, want 418", abort)
	}
}
