package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// allStored is how many flows are asked for if --since limits them instead of --last.
const allStored = 10000

// flowFlags are the flags of flows as typed.
type flowFlags struct {
	output, verdict, reporter *choice
	kind                      *choice
	since                     string
	port                      uint16
	last                      uint32
	req                       adminv1.FlowsRequest
}

const flowsLong = `Show connections as the agents recorded them, and requests as waypoints did, oldest first: when, from whom to whom,
what was decided and by which rule, how it was protected, how much passed and how long it took; of a request also what
was asked and answered, by which route, and how often it was tried. Both ends of a connection report it, and a waypoint
its requests, with the same id (-o wide); --reporter picks one. --type leaves out requests or connections.

-o json prints one object a line. A name is POD, NAMESPACE/POD or NAMESPACE/ (every pod of the namespace).
With -f it goes on until interrupted; a connection then shows up when it opens and again when it ends.`

// flowsCommand shows and follows the record of connections.
func (a *app) flowsCommand() *cobra.Command {
	f := &flowFlags{}
	cmd := &cobra.Command{
		Use:     "flows",
		Aliases: []string{"flow", "observe"},
		Short:   "Show connections and requests, their verdict and how they were protected",
		Long:    flowsLong,
		Example: `  agentctl flows --last 50
  agentctl flows -f --verdict denied
  agentctl flows --since 5m --from shop/web --to shop/ --port 8080
  agentctl flows -f --type request --to shop/pay --status 5xx
  agentctl flows --method POST --path /cart
  agentctl flows --id 4bf92f3577b34da6a3ce929d0e0e4736 -o wide
  agentctl flows -f -o json | jq -r 'select(.security == "plaintext") | .src.workload'`,
		Args: exactArgs(),
	}
	f.output = outputFlag(cmd, formatTable, formatWide, formatCompact, formatJSON, formatYAML)
	a.flowFilters(cmd, f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		req, err := f.request(a.now())
		if err != nil {
			return err
		}
		return a.showFlows(cmd.Context(), req, f)
	}
	return cmd
}

func (a *app) flowFilters(cmd *cobra.Command, f *flowFlags) {
	verdict := newChoice("", "forwarded", "denied", "failed", "audited")
	reporter := newChoice("", "outbound", "inbound", "waypoint")
	kind := newChoice("", "connection", "request")
	f.verdict, f.reporter, f.kind = &verdict, &reporter, &kind
	fl := cmd.Flags()
	fl.BoolVarP(&f.req.Follow, "follow", "f", false, "go on with new connections until interrupted")
	fl.Uint32Var(&f.last, "last", 0, "show the newest N (default 20)")
	fl.StringVar(&f.since, "since", "", "show those since a duration ago (5m) or an RFC 3339 time")
	fl.StringVar(&f.req.From, "from", "", "only from this source")
	fl.StringVar(&f.req.To, "to", "", "only to this destination")
	fl.StringVar(&f.req.Pod, "pod", "", "only from or to this pod")
	fl.StringVar(&f.req.Node, "node", "", "only as seen by this node")
	fl.StringVar(&f.req.Protocol, "protocol", "", "only this protocol: tcp, http (any version), HTTP/1.1, HTTP/2, gRPC, websocket")
	fl.StringVar(&f.req.Id, "id", "", "only the connection with this id, from both its ends, or the requests of this trace")
	fl.Uint16Var(&f.port, "port", 0, "only to this destination port")
	fl.Var(&kind, "type", "only flows of this type: "+kind.Type())
	fl.StringVar(&f.req.Method, "method", "", "only requests with this method")
	fl.StringVar(&f.req.Path, "path", "", "only requests whose path begins so")
	fl.StringVar(&f.req.Status, "status", "", "only requests answered so: 404, or a class such as 5xx")
	fl.Var(&verdict, "verdict", "only this verdict: "+verdict.Type())
	fl.Var(&reporter, "reporter", "only as reported by this end: "+reporter.Type())
	a.namespaceFlag(cmd, &f.req.Namespace)
	for _, name := range []string{"from", "to", "pod"} {
		_ = cmd.RegisterFlagCompletionFunc(name, a.completePods(-1))
	}
	_ = cmd.RegisterFlagCompletionFunc("verdict", verdict.complete)
	_ = cmd.RegisterFlagCompletionFunc("reporter", reporter.complete)
	_ = cmd.RegisterFlagCompletionFunc("type", kind.complete)
}

// request checks the flags and completes the request.
func (f *flowFlags) request(now time.Time) (*adminv1.FlowsRequest, error) {
	f.req.Verdict, f.req.Port, f.req.Last, f.req.Type = f.verdict.value, uint32(f.port), f.last, f.kind.value
	if err := f.checkRequests(); err != nil {
		return nil, err
	}
	if f.since == "" {
		return &f.req, nil
	}
	at, err := parseSince(f.since, now)
	if err != nil {
		return nil, err
	}
	f.req.SinceUnixNano = at.UnixNano()
	if f.last == 0 {
		f.req.Last = allStored
	}
	return &f.req, nil
}

// checkRequests checks the filters that only requests have.
func (f *flowFlags) checkRequests() error {
	if s := strings.ToLower(f.req.Status); s != "" {
		digits := strings.TrimSuffix(s, "xx")
		if n, err := strconv.Atoi(digits); err != nil || len(s) != 3 || n < 1 || digits[0] < '1' || digits[0] > '5' {
			return usagef("write 404 or 5xx", "--status %q is neither a status nor a class of them", f.req.Status)
		}
	}
	if f.req.Path != "" && f.req.Path[0] != '/' {
		return usagef("a path begins with /: --path /cart", "--path %q is no path", f.req.Path)
	}
	return nil
}

// parseSince reads "5m" as five minutes before now, or an RFC 3339 time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return at, usagef("write 30s, 5m, 2h or 2006-01-02T15:04:05Z", "--since %q is neither a duration nor a time", s)
	}
	return at, nil
}

// showFlows runs the request and prints each flow. A follow ends well only by an interrupt.
func (a *app) showFlows(ctx context.Context, req *adminv1.FlowsRequest, f *flowFlags) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	stream, err := c.Flows(ctx, req)
	if err != nil {
		return a.explain(c.socket, err)
	}
	out := a.flowWriter(f.output.value, req.Follow, req.Type == "request")
	if err := out.begin(); err != nil {
		return err
	}
	for {
		flow, err := stream.Recv()
		if err != nil {
			return errors.Join(out.end(), a.flowsEnded(ctx, c, req.Follow, err))
		}
		if f.reporter.value != "" && flow.Reporter != f.reporter.value {
			continue
		}
		if err := out.flow(flow); err != nil {
			return err
		}
	}
}

// flowsEnded judges why a stream ended.
func (a *app) flowsEnded(ctx context.Context, c *client, follow bool, err error) error {
	switch {
	case ctx.Err() != nil && follow:
		return nil
	case errors.Is(err, io.EOF) && !follow:
		return nil
	case errors.Is(err, io.EOF):
		return &failure{
			text: fmt.Sprintf("%s ended the stream of flows", c.socket),
			hint: "it is probably restarting: run the command again",
		}
	}
	return a.explain(c.socket, err)
}
