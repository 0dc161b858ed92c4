package route

// TrafficSet finds the TrafficPolicies of a service and of a route's rule. It is immutable.
type TrafficSet struct{}
