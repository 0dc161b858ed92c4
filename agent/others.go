package agent

import (
	"fmt"
	"strings"

	"github.com/warren-mesh/warren/bpf"
)

// others reads who else has programs at the hooks of capture. Without an answer there is nobody: capture itself works.
func (a *Agent) others() []bpf.Other {
	root, err := bpf.CgroupRoot(a.cfg.CgroupRoot)
	if err != nil {
		return nil
	}
	others, err := bpf.Others(root)
	if err != nil {
		a.cfg.Log.Debug("who else has programs at the hooks is not known", "err", err)
	}
	return others
}

// logOthers names them all, once.
func (a *Agent) logOthers() {
	for _, o := range a.others() {
		a.cfg.Log.Info("somebody else's program is at a hook of capture", "program", o.Program, "hook", o.Hook, "first", o.First)
	}
}

// othersText says which of others' programs a person should look at; "" if none. Of the balancers of Cilium and Calico it
// is their configuration that says whether they leave pods alone, and agentctl check that reads it: their programs are
// there either way.
func othersText(others []bpf.Other) string {
	var named []string
	for _, o := range others {
		if !strings.HasPrefix(o.Program, "cil_sock") && !strings.HasPrefix(o.Program, "calico_connect") {
			named = append(named, o.String())
		}
	}
	if len(named) == 0 {
		return ""
	}
	return fmt.Sprintf("programs that are not Warren's run when a pod connects: %s", strings.Join(named, ", "))
}
