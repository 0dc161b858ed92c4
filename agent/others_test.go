package agent

import (
	"testing"

	"github.com/warren-mesh/warren/bpf"
)

// TestWhoElseTurnsConnectionsIsToldOf, but not the balancers that agentctl check judges by their configuration.
func TestWhoElseTurnsConnectionsIsToldOf(t *testing.T) {
	known := []bpf.Other{{Hook: "connect4", Program: "cil_sock4_connect", First: true}, {Hook: "connect6", Program: "calico_connect_v46"},
		{Hook: "getpeername4", Program: "cil_sock4_getpeername"}}
	if got := othersText(known); got != "" {
		t.Errorf("of Cilium and Calico: %q", got)
	}
	got := othersText(append(known, bpf.Other{Hook: "connect4", Program: "cgroup_connect4_prog", First: true}, bpf.Other{Hook: "connect6", Program: "x"}))
	if want := "programs that are not Warren's run when a pod connects: cgroup_connect4_prog at connect4, before Warren's, x at connect6"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
