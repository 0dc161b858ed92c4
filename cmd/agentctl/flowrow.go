package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
)

// peerName is "namespace/pod" if the peer is known, else its address. The port is appended if there is one.
func peerName(p *adminv1.Peer, withPort bool) string {
	name := peerHost(p)
	if !withPort || p.GetPort() == 0 {
		return name
	}
	if addr, err := netip.ParseAddr(name); err == nil && addr.Is6() {
		name = "[" + name + "]"
	}
	return name + ":" + strconv.FormatUint(uint64(p.Port), 10)
}

func peerHost(p *adminv1.Peer) string {
	switch {
	case p.GetWorkload() != "" && p.Namespace != "":
		return p.Namespace + "/" + p.Workload
	case p.GetWorkload() != "":
		return p.Workload
	case p.GetAddress() != "":
		return p.Address
	}
	return "unknown"
}

// flowRule says what the verdict rests on: the rule, with the reason if the connection did not simply come and go.
func flowRule(f *adminv1.Flow) string {
	// The kind goes without saying in a column of rules; -o json has it.
	rule := strings.TrimPrefix(f.Rule, "AuthorizationPolicy ")
	switch f.Reason {
	case "", "closed", "allowed", "no_policy", "answered":
		if rule != "" {
			return rule
		}
		return f.Reason
	}
	return strings.TrimSpace(f.Reason + " " + rule)
}

// flowService is the service that the client dialled, else the address it dialled.
func flowService(f *adminv1.Flow) string {
	if s := f.Dst.GetService(); s != "" {
		return s
	}
	return f.Dialled
}

func verdictCell(f *adminv1.Flow) cell {
	c := cell{text: f.Verdict}
	switch f.Verdict {
	case "forwarded":
		c.style = good
	case "denied", "failed":
		c.style = bad
	case "audited":
		c.style = warn
	}
	return c
}

func securityCell(f *adminv1.Flow) cell {
	c := cell{text: f.Security}
	switch {
	case f.Security == "plaintext":
		c.style = warn
	case f.Accelerated:
		c.text = "accelerated"
	case f.Direct: // local too, and no process in between
		c.text = "direct"
	}
	return c
}

// flowTook is how long a connection lasted, or "open".
func flowTook(f *adminv1.Flow) string {
	if f.EndUnixNano == 0 {
		return "open"
	}
	return short(time.Duration(f.EndUnixNano - f.StartUnixNano))
}

// clock prints a wall-clock time in the zone of this machine.
func (a *app) clock(unixNano int64, layout string) string {
	if unixNano == 0 {
		return ""
	}
	return time.Unix(0, unixNano).In(a.now().Location()).Format(layout)
}

// flowHeader and flowRow are the columns of flows; those of requests come behind what connections have. They also say
// how wide a column of a stream starts.
func flowHeader(wide, requests bool) ([]string, []int) {
	header := []string{"TIME", "SEEN BY", "SOURCE", "DESTINATION", "VERDICT", "RULE/REASON", "SECURITY", "IN", "OUT", "DURATION"}
	widths := []int{19, 12, 24, 28, 9, 40, 9, 8, 8, 8}
	if requests {
		header = append(header, "REQUEST", "ROUTE", "TRIES")
		widths = append(widths, 32, 20, 5)
	}
	if wide {
		header = append(header, "SERVICE", "SOURCE ID", "DESTINATION ID", "PROTOCOL", "ID",
			"CAPTURE", "ROUTE", "CONNECT", "TLS", "AUTHORIZE", "APP", "AUDIT", "DETAIL")
		widths = append(widths, 20, 40, 40, 8, 32, 7, 7, 7, 7, 9, 7, 5, 6)
	}
	if wide && requests {
		header = append(header, "HOST", "BACKEND", "HEADER", "TRACE ID", "SPAN ID", "USER AGENT")
		widths = append(widths, 20, 20, 7, 32, 16, 10)
	}
	return header, widths
}

func (a *app) flowRow(f *adminv1.Flow, wide, requests bool) []cell {
	row := append(cells(a.clock(f.StartUnixNano, "Jan _2 15:04:05.000"), seenBy(f), peerName(f.Src, false), peerName(f.Dst, true)),
		verdictCell(f), cell{text: flowRule(f)}, securityCell(f))
	row = append(row, cells(size(f.BytesIn), size(f.BytesOut), flowTook(f))...)
	if requests {
		row = append(row, requestCells(f.Http)...)
	}
	if !wide {
		return row
	}
	row = append(row, cells(flowService(f), f.Src.GetSpiffeId(), f.Dst.GetSpiffeId(), f.Protocol, f.Id)...)
	p := f.Phases
	for _, nanos := range []int64{p.GetCapture(), p.GetRoute(), p.GetConnect(), p.GetTls(), p.GetAuthorize(), p.GetApp()} {
		row = append(row, cell{text: short(time.Duration(nanos))})
	}
	row = append(row, cells(f.Audit, f.Detail)...)
	if h := f.Http; requests {
		row = append(row, cells(h.GetHost(), h.GetBackend(), short(time.Duration(h.GetHeader())), h.GetTraceId(), h.GetSpanId(), h.GetUserAgent())...)
	}
	return row
}

// seenBy says whose record it is: a connection between two pods of the mesh has one of each side.
func seenBy(f *adminv1.Flow) string {
	side := f.Reporter
	switch side {
	case "outbound":
		side = "client"
	case "inbound":
		side = "server"
	case "waypoint":
		return strings.TrimSpace(side + " " + f.Pod)
	}
	return strings.TrimSpace(side + " " + f.Node)
}

// flowLine is the compact form: one self-contained line.
func (a *app) flowLine(f *adminv1.Flow) string {
	v := verdictCell(f)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s -> %s %s", a.clock(f.StartUnixNano, "15:04:05.000"),
		clean(peerName(f.Src, true)), clean(peerName(f.Dst, true)), a.paint(v.style, v.fit()))
	if rule := flowRule(f); rule != "" {
		fmt.Fprintf(&b, " (%s)", clean(rule))
	}
	if h := f.Http; h != nil {
		b.WriteString(" " + a.requestText(h))
	}
	s := securityCell(f)
	fmt.Fprintf(&b, " %s in %s out %s", a.paint(s.style, s.fit()), size(f.BytesIn), size(f.BytesOut))
	if took := flowTook(f); took != "" {
		b.WriteString(" " + took)
	}
	return b.String()
}
