package compile

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/warren-mesh/warren/api/meshv1"
)

// compact writes a message on one line, for people to review.
func compact(m proto.Message) string {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return err.Error()
	}
	// protojson puts a space after some separators and not after others, by chance of the build: quotes, braces and
	// spaces go.
	return strings.NewReplacer(`"`, "", ", ", ",", ": ", ":").Replace(string(raw))
}

func renderWaypoint(b *strings.Builder, w *meshv1.Workload) {
	for _, part := range []struct{ name, value string }{
		{"waypoint", w.GetWaypoint()}, {"through", strings.Join(w.GetThrough(), ",")}, {"gateway", w.GetGateway()},
	} {
		if part.value != "" {
			fmt.Fprintf(b, " %s=%s", part.name, part.value)
		}
	}
}

func renderRoute(b *strings.Builder, r *meshv1.Route) {
	fmt.Fprintf(b, "route %s %s/%s", r.GetKind(), r.GetNamespace(), r.GetName())
	if len(r.GetHostnames()) > 0 {
		fmt.Fprintf(b, " hostnames=%s", strings.Join(r.GetHostnames(), ","))
	}
	for _, p := range r.GetParents() {
		fmt.Fprintf(b, " parent=%s", compact(p))
	}
	b.WriteByte('\n')
	for _, rule := range r.GetRules() {
		fmt.Fprintf(b, "  rule %s\n", compact(rule))
	}
}

func renderStatuses(b *strings.Builder, out *Output) {
	for _, r := range out.Routes {
		for i, p := range r.Parents {
			fmt.Fprintf(b, "status %s parent %d %s\n", r.Key, i, p.Ref.Name)
			for _, c := range p.Conditions {
				fmt.Fprintf(b, "  %s=%v %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
			}
		}
	}
	for _, s := range out.Traffic {
		fmt.Fprintf(b, "status %s followed by %v\n  %s=%v %s: %s\n", s.Key, s.Gateways, s.Condition.Type, s.Condition.Status, s.Condition.Reason, s.Condition.Message)
	}
}
