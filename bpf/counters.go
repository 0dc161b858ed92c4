package bpf

import "fmt"

// reasons names the counters of capture.h in order, for people and metrics.
var reasons = [captureCaptureReasonREASONS]string{
	"out_captured", "out_own", "out_local", "out_link_local", "out_udp", "out_other", "out_pending",
	"out_no_source", "out_error", "out_fail_open", "in_plaintext", "in_tunnel", "in_local", "in_pending",
	"in_no_listener", "in_error", "in_fail_open", "udp_sent", "in_probe", "probe_not_noted",
	"out_direct", "in_direct", "direct_not_noted", "direct_end_lost",
}

// Counters returns how often the programs decided for each reason since they were first loaded.
func (c *Capture) Counters() (map[string]uint64, error) {
	out := make(map[string]uint64, len(reasons))
	var perCPU []uint64
	for i, name := range reasons {
		if err := c.maps.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}
