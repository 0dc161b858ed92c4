package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// The states of a step, as adminv1.Step has them.
const (
	stepOK      = "ok"
	stepFailed  = "failed"
	stepSkipped = "skipped"
)

const whyLong = `Walk the journey that a connection from SRC to DST would take (capture, resolve, route, identity, connect, tls,
authorize, app) and show the first step that fails, with what to do about it. SRC is NAMESPACE/POD; DST is a host name,
an address or NAMESPACE/POD. The source's agent dials the destination to see whether it answers; --probe=false only
reads what the mesh knows. Exits with 0 if every step is fine and 3 if one fails.`

// whyCommand walks the journey of one connection.
func (a *app) whyCommand() *cobra.Command {
	var probe bool
	cmd := &cobra.Command{
		Use:   "why SRC DST:PORT",
		Short: "Walk a connection's journey and show the step that fails",
		Long:  whyLong,
		Example: `  agentctl why shop/web payments.shop:8080
  agentctl why shop/web shop/payments-0:8080
  agentctl why shop/web [fd00:10::7]:8080 --probe=false -o json`,
		Args:              exactArgs("SRC", "DST:PORT"),
		ValidArgsFunction: a.completePods(2),
	}
	output := outputFlag(cmd, formatTable, formatJSON, formatYAML)
	cmd.Flags().BoolVar(&probe, "probe", true, "dial the destination from the source's node")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dst, port, err := splitPort(args[1])
		if err != nil {
			return err
		}
		if !strings.Contains(args[0], "/") {
			return usagef("write it as NAMESPACE/POD", "SRC %q has no namespace", args[0])
		}
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Why,
			&adminv1.WhyRequest{Src: args[0], Dst: dst, Port: port, Probe: probe})
		if err != nil {
			return err
		}
		if output.machine() {
			err = a.emit(output.value, reply)
		} else {
			a.journey(args[0], args[1], reply)
		}
		if err == nil && firstFailed(reply) >= 0 {
			return errNo
		}
		return err
	}
	return cmd
}

// firstFailed is the index of the step at which the journey ends, or -1.
func firstFailed(reply *adminv1.WhyReply) int {
	for i, s := range reply.Steps {
		if s.State == stepFailed {
			return i
		}
	}
	return -1
}

// journey prints each step with its mark; the first that failed stands out and has its hint.
func (a *app) journey(src, dst string, reply *adminv1.WhyReply) {
	a.printf("%s -> %s\n", clean(src), clean(dst))
	failed := firstFailed(reply)
	for i, s := range reply.Steps {
		mark, st := "?", warn
		switch s.State {
		case stepOK:
			mark, st = markOK, good
		case stepFailed:
			mark, st = markBad, bad
		case stepSkipped:
			mark, st = "-", dim
		}
		line := clean(s.Text)
		if s.Node != "" {
			line += " [" + clean(s.Node) + "]"
		}
		name := padded(clean(s.Name), 10)
		if i == failed {
			name, line = a.paint(bold, name), a.paint(bold, line)
		}
		a.printf("%s %s %s\n", a.paint(st, mark), name, line)
		if i == failed && s.Hint != "" {
			a.printf("  %s hint: %s\n", padded("", 10), clean(s.Hint))
		}
	}
	if reply.Verdict != "" {
		a.printf("verdict: %s\n", clean(reply.Verdict))
	}
}

func padded(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}
