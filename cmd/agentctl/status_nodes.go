package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
)

// completeProblems merges what single nodes report into the reply's problems, each once, worst first.
func completeProblems(reply *adminv1.StatusReply) {
	type key struct{ node, subject, text string }
	seen := make(map[key]bool)
	var all []*adminv1.Problem
	add := func(p *adminv1.Problem) {
		if k := (key{p.Node, p.Subject, p.Text}); !seen[k] {
			seen[k] = true
			all = append(all, p)
		}
	}
	for _, p := range reply.Problems {
		add(p)
	}
	for _, n := range reply.Nodes {
		for _, p := range n.Problems {
			if p.Node == "" {
				p.Node = n.Node
			}
			add(p)
		}
	}
	for _, w := range reply.Waypoints {
		for _, p := range w.Problems {
			add(p)
		}
	}
	slices.SortStableFunc(all, func(x, y *adminv1.Problem) int { return cmp.Compare(y.Severity, x.Severity) })
	reply.Problems = all
	slices.SortStableFunc(reply.Nodes, func(x, y *adminv1.NodeStatus) int { return cmp.Compare(x.Node, y.Node) })
}

// The marks that check, status and why put before a line, as linkerd's check does.
const (
	markOK   = "√"
	markWarn = "‼"
	markBad  = "×"
)

// problems prints each problem with its hint, then an empty line. Nothing is printed if there is none.
func (a *app) problems(problems []*adminv1.Problem) {
	for _, p := range problems {
		mark, s := markOK, dim
		switch p.Severity {
		case adminv1.Problem_ERROR:
			mark, s = markBad, bad
		case adminv1.Problem_WARNING:
			mark, s = markWarn, warn
		case adminv1.Problem_INFO:
			mark = "i"
		}
		where := clean(p.Subject)
		if p.Node != "" {
			where += " on " + clean(p.Node)
		}
		a.printf("%s %s: %s\n", a.paint(s, mark+" "+p.Severity.String()), where, clean(p.Text))
		if p.Hint != "" {
			a.printf("  hint: %s\n", clean(p.Hint))
		}
	}
	if len(problems) > 0 {
		a.printf("\n")
	}
}

// controllerLine says who answered, in one line.
func (a *app) controllerLine(reply *adminv1.StatusReply) {
	c := reply.Controller
	if c == nil {
		for _, n := range reply.Nodes {
			a.printf("agent of node %s: %s %s\n", clean(n.Node), clean(n.Version), a.paint(nodeLink(reply, n).style, nodeLink(reply, n).text))
		}
		return
	}
	origin := ""
	if c.CaOrigin != "" {
		origin = " (" + clean(c.CaOrigin) + ")"
	}
	a.printf("controller %s: trust domain %s, config version %d, up %s, CA expires %s%s\n",
		clean(c.Version), clean(c.TrustDomain), c.ConfigVersion, a.since(c.StartedUnix), inOrAgo(a.until(c.CaNotAfterUnix)), origin)
	for _, r := range c.Rejected {
		a.printf("  %s %s\n", a.paint(bad, markBad+" rejected:"), clean(r))
	}
}

// inOrAgo completes "expires": "in 5m", "5m ago", "never".
func inOrAgo(until string) string {
	switch {
	case until == "":
		return "never"
	case len(until) > 4 && until[len(until)-4:] == " ago":
		return until
	}
	return "in " + until
}

// nodeLink says how a node is connected. It is good only if all is well.
func nodeLink(reply *adminv1.StatusReply, n *adminv1.NodeStatus) cell {
	switch {
	case reply.Controller != nil && !n.Connected:
		return cell{"disconnected", bad}
	case !n.ControllerConnected:
		return cell{"no controller", bad}
	}
	return cell{"connected", good}
}

// behind is how many versions a node is behind; versions of another epoch count as one.
func behind(reply *adminv1.StatusReply, n *adminv1.NodeStatus) uint64 {
	if c := reply.Controller; c != nil && n.Epoch != "" && c.Epoch != "" && n.Epoch != c.Epoch {
		return 1
	}
	if n.LatestVersion > n.EnforcedVersion {
		return n.LatestVersion - n.EnforcedVersion
	}
	return 0
}

// configCell says which configuration a node enforces, and how that compares to the newest.
func configCell(reply *adminv1.StatusReply, n *adminv1.NodeStatus) cell {
	switch {
	case reply.Controller != nil && !n.Connected && n.EnforcedVersion == 0:
		return cell{}
	case reply.Controller != nil && !n.Connected:
		return cell{fmt.Sprintf("%d (last seen)", n.EnforcedVersion), dim}
	case n.LastNack != "":
		return cell{fmt.Sprintf("%d (rejected %d)", n.EnforcedVersion, n.LatestVersion), bad}
	case behind(reply, n) > 0:
		return cell{fmt.Sprintf("%d (%d behind)", n.EnforcedVersion, behind(reply, n)), warn}
	}
	return cell{fmt.Sprintf("%d (latest)", n.EnforcedVersion), good}
}

func (a *app) nodeTable(reply *adminv1.StatusReply, wide bool) error {
	t := table{header: []string{"NODE", "VERSION", "STATE", "CONFIG", "ENROLLED", "PENDING", "UNMANAGED", "CONNECTIONS", "SVID EXPIRES"}}
	if wide {
		t.header = append(t.header, "UP", "KERNEL", "EPOCH", "ENFORCED", "LAST NACK")
	}
	for _, n := range reply.Nodes {
		states := make(map[string]int)
		for _, p := range n.Pods {
			states[p.State]++
		}
		pending := cell{text: fmt.Sprint(states[podPending])}
		if states[podPending] > 0 {
			pending.style = warn
		}
		row := append(cells(n.Node, n.Version), nodeLink(reply, n), configCell(reply, n),
			cell{text: fmt.Sprint(states[podEnrolled])}, pending, cell{text: fmt.Sprint(states[podUnmanaged])},
			cell{text: fmt.Sprint(n.OpenConnections)}, a.expiryCell(n.NodeSvidNotAfterUnix))
		if wide {
			enforced := a.since(n.EnforcedUnix)
			if enforced != "" {
				enforced += " ago"
			}
			row = append(row, cells(a.since(n.StartedUnix), n.Kernel, n.Epoch, enforced, n.LastNack)...)
		}
		t.add(row...)
	}
	return t.write(a, "")
}

// expiryCell prints when a certificate expires, red once it has.
func (a *app) expiryCell(unix int64) cell {
	c := cell{text: a.until(unix)}
	if unix != 0 && !a.now().Before(time.Unix(unix, 0)) {
		c.style = bad
	}
	return c
}
