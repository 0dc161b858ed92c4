package proxy

import (
	"context"

	"github.com/warren-mesh/warren/waypoint/exchange"
	"github.com/warren-mesh/warren/waypoint/fault"
)

// limit holds the client to the rates that apply to it.
func (x *passage) limit() *refusal {
	if x.p.cfg.Limiter == nil || len(x.traffic.RateLimits) == 0 {
		return nil
	}
	v := x.p.cfg.Limiter.Allow(x.traffic, x.conn, x.in, x.p.now())
	if v.OK {
		return nil
	}
	return rateLimited(v.Name, v.Limit, v.Remaining, seconds(v.Reset))
}

// disturb makes the faults that are asked for: first it waits, then it refuses.
func (x *passage) disturb() *refusal {
	if x.traffic.Fault == nil {
		return nil
	}
	delay, status := fault.Of(x.traffic, x.in, x.p.random(), x.p.random())
	if delay > 0 {
		if err := sleep(x.ctx, delay); err != nil {
			if x.in.Context().Err() != nil {
				return gone()
			}
			return timedOut(context.Cause(x.ctx))
		}
	}
	if status == 0 {
		return nil
	}
	return refusalOf(status, exchange.Injected, "this failure is injected")
}

func gone() *refusal { return refusalOf(0, exchange.Gone, "the client went away") }
