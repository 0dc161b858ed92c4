package main

import (
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/warren-mesh/warren/api/adminv1"
)

// requestCells are a request at a glance: what was asked and answered, by which route, and how often it was tried. They are
// empty for a connection.
func requestCells(h *adminv1.HTTPRequest) []cell {
	if h == nil {
		return cells("", "", "")
	}
	tries := cell{text: strconv.Itoa(len(h.Tries))}
	if len(h.Tries) > 1 {
		tries.style = warn
	}
	return []cell{{requestLine(h) + " → " + statusText(h), statusStyle(h)}, {text: routeText(h)}, tries}
}

// requestText is a request in one line of prose.
func (a *app) requestText(h *adminv1.HTTPRequest) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s → %s", clean(requestLine(h)), a.paint(statusStyle(h), clean(statusText(h))))
	if r := routeText(h); r != "" {
		b.WriteString(" by " + clean(r))
	}
	if n := len(h.Tries); n > 1 {
		fmt.Fprintf(&b, " after %d tries", n)
	}
	return b.String()
}

func requestLine(h *adminv1.HTTPRequest) string { return h.Method + " " + h.Path }

// routeText names the route and its rule; the kind is in -o json.
func routeText(h *adminv1.HTTPRequest) string {
	_, name, _ := strings.Cut(h.Route, " ")
	if name == "" || h.Rule == "" {
		return name
	}
	return name + "[" + h.Rule + "]"
}

// statusText is the answer's status; gRPC's own says more, as HTTP's is always 200.
func statusText(h *adminv1.HTTPRequest) string {
	switch {
	case h.Status == 0:
		return "no answer"
	case h.GrpcStatus > 0:
		return fmt.Sprintf("%d %s", h.Status, codes.Code(h.GrpcStatus))
	}
	return strconv.FormatUint(uint64(h.Status), 10)
}

func statusStyle(h *adminv1.HTTPRequest) style {
	switch {
	case h.Status >= 500, h.Status == 0, h.GrpcStatus > 0:
		return bad
	case h.Status >= 400:
		return warn
	}
	return good
}
