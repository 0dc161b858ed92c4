package resource

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/route"
)

func wholeTraffic() *meshv1.TrafficPolicy {
	return &meshv1.TrafficPolicy{
		Namespace: "shop", Name: "web", CreatedUnix: 1_700_000_000,
		Targets: []string{"Service shop/web", "HTTPRoute shop/web", "GRPCRoute shop/web/first"},
		Fault: &meshv1.Fault{DelayPerMyriad: 100, DelayMs: 250, AbortPerMyriad: 10_000, AbortStatus: 503,
			Headers: []*meshv1.ValueMatch{{Name: "x-test", Value: "1"}}},
		RateLimits: []*meshv1.RateLimit{
			{Name: "each", By: meshv1.RateLimit_HEADER, Header: "x-user", Requests: 10, PeriodMs: 1000, Burst: 20},
			{By: meshv1.RateLimit_IDENTITY, Requests: 1, PeriodMs: 1},
		},
		Outlier:       &meshv1.OutlierDetection{ConsecutiveErrors: 5, BaseEjectionMs: 1000, MaxEjectionMs: 60_000, MaxEjectedPercent: 50},
		Connections:   &meshv1.ConnectionLimits{MaxRequests: 100, MaxConnectionsPerEndpoint: 10, MaxPending: 5},
		LoadBalancing: &meshv1.LoadBalancing{Kind: meshv1.LoadBalancing_CONSISTENT_HASH, HashCookie: "sid", LocalityFailover: true},
		RetryBudget:   &meshv1.RetryBudget{Percent: 20, MinRetriesPerSecond: 3},
	}
}

func TestATrafficPolicyIsDecodedWhole(t *testing.T) {
	got, err := DecodeTraffic(wholeTraffic())
	want := &route.TrafficPolicy{
		Namespace: "shop", Name: "web", Created: time.Unix(1_700_000_000, 0).UTC(),
		Targets: []string{"Service shop/web", "HTTPRoute shop/web", "GRPCRoute shop/web/first"},
		Traffic: route.Traffic{
			Fault: &route.Fault{DelayPerMyriad: 100, Delay: 250 * time.Millisecond, AbortPerMyriad: 10_000, AbortStatus: 503,
				Headers: []route.ValueMatch{{Name: "x-test", Value: "1"}}},
			RateLimits: []route.RateLimit{
				{Name: "each", By: route.ByHeader, Header: "x-user", Requests: 10, Period: time.Second, Burst: 20},
				{By: route.ByIdentity, Requests: 1, Period: time.Millisecond},
			},
			Outlier:       &route.Outlier{ConsecutiveErrors: 5, BaseEjection: time.Second, MaxEjection: time.Minute, MaxEjectedPercent: 50},
			Connections:   &route.ConnectionLimits{MaxRequests: 100, MaxConnectionsPerEndpoint: 10, MaxPending: 5},
			LoadBalancing: &route.LoadBalancing{Kind: route.ConsistentHash, HashCookie: "sid", LocalityFailover: true},
			RetryBudget:   &route.RetryBudget{Percent: 20, MinRetriesPerSecond: 3},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestImpossibleTrafficPoliciesAreRefusedByField(t *testing.T) {
	for says, change := range map[string]func(*meshv1.TrafficPolicy){
		"a name of 0 bytes":             func(p *meshv1.TrafficPolicy) { p.Namespace = "" },
		"targets: 257":                  func(p *meshv1.TrafficPolicy) { p.Targets = make([]string, 257) },
		`target "Pod shop/web"`:         func(p *meshv1.TrafficPolicy) { p.Targets[0] = "Pod shop/web" },
		`target "Service shop/web/x"`:   func(p *meshv1.TrafficPolicy) { p.Targets[0] = "Service shop/web/x" },
		`target "HTTPRoute shop/"`:      func(p *meshv1.TrafficPolicy) { p.Targets[0] = "HTTPRoute shop/" },
		"fault: 10001 delays":           func(p *meshv1.TrafficPolicy) { p.Fault.DelayPerMyriad = 10_001 },
		"fault: abort_status: 200":      func(p *meshv1.TrafficPolicy) { p.Fault.AbortStatus = 200 },
		"fault: delay_ms: more than":    func(p *meshv1.TrafficPolicy) { p.Fault.DelayMs = 3_600_001 },
		`fault: headers[0]: "a b"`:      func(p *meshv1.TrafficPolicy) { p.Fault.Headers[0].Name = "a b" },
		"rate_limits: 65":               func(p *meshv1.TrafficPolicy) { p.RateLimits = make([]*meshv1.RateLimit, 65) },
		"rate_limits[0]: by: 9":         func(p *meshv1.TrafficPolicy) { p.RateLimits[0].By = 9 },
		`rate_limits[0]: header: ""`:    func(p *meshv1.TrafficPolicy) { p.RateLimits[0].Header = "" },
		"rate_limits[1]: 0 requests":    func(p *meshv1.TrafficPolicy) { p.RateLimits[1].Requests = 0 },
		"rate_limits[1]: 1 requests in": func(p *meshv1.TrafficPolicy) { p.RateLimits[1].PeriodMs = 0 },
		"outlier: 5 errors":             func(p *meshv1.TrafficPolicy) { p.Outlier.MaxEjectedPercent = 101 },
		"connections: 10000001":         func(p *meshv1.TrafficPolicy) { p.Connections.MaxPending = 10_000_001 },
		"load_balancing: kind: 9":       func(p *meshv1.TrafficPolicy) { p.LoadBalancing.Kind = 9 },
		"load_balancing: 2 things":      func(p *meshv1.TrafficPolicy) { p.LoadBalancing.HashSource = true },
		"load_balancing: 1 things":      func(p *meshv1.TrafficPolicy) { p.LoadBalancing.Kind = meshv1.LoadBalancing_RANDOM },
		"retry_budget: 101 per cent":    func(p *meshv1.TrafficPolicy) { p.RetryBudget.Percent = 101 },
	} {
		wire := wholeTraffic()
		change(wire)
		if p, err := DecodeTraffic(wire); !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), says) || p != nil {
			t.Errorf("%+v, %v, want %q", p, err, says)
		}
	}
}

// FuzzTraffic: a policy that is taken can be put into a set.
func FuzzTraffic(f *testing.F) {
	b, err := proto.Marshal(wholeTraffic())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		var wire meshv1.TrafficPolicy
		if proto.Unmarshal(data, &wire) != nil {
			return
		}
		p, err := DecodeTraffic(&wire)
		if err != nil {
			if !errors.Is(err, ErrUndecodable) {
				t.Fatalf("refused by %v", err)
			}
			return
		}
		if _, err := route.NewTrafficSet([]*route.TrafficPolicy{p}); err != nil {
			t.Fatalf("what was decoded is no set: %v", err)
		}
	})
}
