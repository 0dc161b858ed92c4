package route

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"
)

func policyOf(name string, age time.Duration, t Traffic, targets ...string) *TrafficPolicy {
	return &TrafficPolicy{Namespace: "shop", Name: name, Created: epoch.Add(-age), Targets: targets, Traffic: t}
}

func trafficSet(t *testing.T, policies ...*TrafficPolicy) *TrafficSet {
	t.Helper()
	s, err := NewTrafficSet(policies)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheNarrowerTrafficPolicyWinsFieldByField(t *testing.T) {
	r := httpRoute("r", "/a", "/b")
	r.Rules[0].Name, r.Rules[1].Name = "first", ""
	s := trafficSet(t,
		policyOf("service", 3, Traffic{Outlier: &Outlier{ConsecutiveErrors: 1}, RetryBudget: &RetryBudget{Percent: 1},
			Connections: &ConnectionLimits{MaxRequests: 1}, LoadBalancing: &LoadBalancing{Kind: Random}}, "Service shop/web"),
		policyOf("route", 2, Traffic{Outlier: &Outlier{ConsecutiveErrors: 2}, RetryBudget: &RetryBudget{Percent: 2},
			Connections: &ConnectionLimits{MaxRequests: 2}}, "HTTPRoute shop/r"),
		policyOf("rule", 1, Traffic{Outlier: &Outlier{ConsecutiveErrors: 3}, RetryBudget: &RetryBudget{Percent: 3}}, "HTTPRoute shop/r/first"),
		policyOf("number", 1, Traffic{Outlier: &Outlier{ConsecutiveErrors: 4}}, "HTTPRoute shop/r/1"),
		policyOf("other kind", 1, Traffic{Outlier: &Outlier{ConsecutiveErrors: 5}}, "GRPCRoute shop/r"),
	)
	for _, c := range []struct {
		name                       string
		hit                        *Hit
		outlier, budget, max, kind int
	}{
		{"no rule", nil, 1, 1, 1, int(Random)},
		{"a rule with a name", &Hit{Route: r, Rule: &r.Rules[0]}, 3, 3, 2, int(Random)},
		{"a rule with a number", &Hit{Route: r, Rule: &r.Rules[1], Index: 1}, 4, 2, 2, int(Random)},
	} {
		got := s.For("shop/web", c.hit)
		if got.Outlier.ConsecutiveErrors != c.outlier || got.RetryBudget.Percent != c.budget ||
			got.Connections.MaxRequests != c.max || int(got.LoadBalancing.Kind) != c.kind {
			t.Errorf("%s: %+v %+v %+v %+v", c.name, got.Outlier, got.RetryBudget, got.Connections, got.LoadBalancing)
		}
	}
	if got := s.For("shop/other", nil); got.Outlier != nil {
		t.Errorf("another service: %+v", got)
	}
	if got := (*TrafficSet)(nil).For("shop/web", nil); got.Outlier != nil {
		t.Errorf("no set: %+v", got)
	}
}

func TestOfTwoTrafficPoliciesForOneTargetTheOlderWins(t *testing.T) {
	young := policyOf("a", 0, Traffic{Outlier: &Outlier{ConsecutiveErrors: 1}, RetryBudget: &RetryBudget{Percent: 1}}, "Service shop/web")
	old := policyOf("z", time.Hour, Traffic{Outlier: &Outlier{ConsecutiveErrors: 2}}, "Service shop/web")
	got := trafficSet(t, young, old).For("shop/web", nil)
	if got.Outlier.ConsecutiveErrors != 2 || got.RetryBudget == nil {
		t.Errorf("%+v %+v", got.Outlier, got.RetryBudget)
	}
	old.Created = young.Created
	if got := trafficSet(t, old, young).For("shop/web", nil); got.Outlier.ConsecutiveErrors != 1 {
		t.Errorf("as old: %+v, want shop/a's, the first by name", got.Outlier)
	}
}

func TestALimitCountsForEachTargetByItself(t *testing.T) {
	p := policyOf("p", 0, Traffic{RateLimits: []RateLimit{{Name: "each"}, {}}}, "Service shop/a", "Service shop/b")
	s := trafficSet(t, p)
	a, b := s.For("shop/a", nil).RateLimits, s.For("shop/b", nil).RateLimits
	keys := map[string]bool{a[0].Key: true, a[1].Key: true, b[0].Key: true, b[1].Key: true}
	if len(keys) != 4 || keys[""] {
		t.Errorf("%v", keys)
	}
	if p.RateLimits[0].Key != "" {
		t.Error("the policy was changed")
	}
}

func TestFaultsAndLimitsAreForRequestsWithAllTheirHeaders(t *testing.T) {
	headers := []ValueMatch{{Name: "x-test", Value: "a.*", Regex: true}, {Name: "Host", Value: "web"}}
	s := trafficSet(t, policyOf("p", 0, Traffic{Fault: &Fault{Headers: headers}, RateLimits: []RateLimit{{Headers: headers}}}, "Service shop/web"))
	compiled := s.For("shop/web", nil)
	literal := Traffic{Fault: &Fault{Headers: headers}, RateLimits: []RateLimit{{Headers: headers}}}
	for value, want := range map[string]bool{"abc": true, "b": false, "": false} {
		r := httptest.NewRequest("GET", "http://web:8080/", nil)
		if value != "" {
			r.Header.Set("X-Test", value)
		}
		for _, traffic := range []Traffic{compiled, literal} {
			if got := traffic.Fault.Applies(r); got != want {
				t.Errorf("fault on %q: %v", value, got)
			}
			if got := traffic.RateLimits[0].Applies(r); got != want {
				t.Errorf("limit on %q: %v", value, got)
			}
		}
	}
	if !(&Fault{}).Applies(httptest.NewRequest("GET", "/", nil)) {
		t.Error("a fault without headers is for every request")
	}
}

func TestImpossibleTrafficPoliciesMakeNoSet(t *testing.T) {
	broken := []ValueMatch{{Name: "a", Value: "(", Regex: true}}
	for name, p := range map[string]*TrafficPolicy{
		"target": policyOf("p", 0, Traffic{}, "Pod shop/web"), "rule of a service": policyOf("p", 0, Traffic{}, "Service shop/web/x"),
		"nameless": policyOf("p", 0, Traffic{}, "HTTPRoute shop"), "fault": policyOf("p", 0, Traffic{Fault: &Fault{Headers: broken}}, "Service a/b"),
		"limit": policyOf("p", 0, Traffic{RateLimits: []RateLimit{{Headers: broken}}}, "Service a/b"),
	} {
		if _, err := NewTrafficSet([]*TrafficPolicy{p}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
