package proxy

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/warren-mesh/warren/waypoint/exchange"
)

// refusal is an end that is the waypoint's own.
type refusal struct {
	status  int
	outcome exchange.Outcome
	text    string // for the client
	detail  string // for the record, if there is more to say
	header  http.Header
	body    string // instead of the text, as it is
	grpc    int    // the gRPC status, 0 for the one that goes with the HTTP status
	done    bool
}

// finished ends the way without a word: the answer is on its way.
func (x *passage) finished() *refusal {
	x.over.done = true
	return &x.over
}

func refusalOf(status int, outcome exchange.Outcome, text string) *refusal {
	return &refusal{status: status, outcome: outcome, text: text}
}

func (no *refusal) because(err error) *refusal {
	no.detail = no.text + ": " + err.Error()
	return no
}

// refuse answers in the client's terms, and notes why.
func (x *passage) refuse(no *refusal) {
	x.rec.Outcome, x.rec.Detail = no.outcome, no.text
	if no.detail != "" {
		x.rec.Detail = no.detail
	}
	if no.outcome == exchange.Gone {
		x.reset()
		panic(http.ErrAbortHandler)
	}
	h := x.w.Header()
	for name, values := range no.header {
		h[name] = values
	}
	if x.asked.grpc {
		x.refuseGRPC(no)
		return
	}
	x.modifyAnswer(h)
	text := no.body
	if no.body == "" && no.text != "" {
		text = no.text + "\n"
	}
	bodiless := no.status == http.StatusNoContent || no.status == http.StatusNotModified
	if bodiless {
		text = ""
	}
	if text != "" && h["Content-Type"] == nil {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
	}
	if !bodiless {
		h.Set("Content-Length", strconv.Itoa(len(text)))
	}
	x.closeUnlessSwitched(h)
	x.writeHeader(no.status)
	if x.in.Method != http.MethodHead && text != "" {
		n, _ := x.w.Write([]byte(text))
		x.rec.BytesOut += uint64(max(n, 0))
	}
}

// refuseGRPC answers by trailers only: gRPC's clients do not look at the HTTP status of an answer that is gRPC's.
func (x *passage) refuseGRPC(no *refusal) {
	status := no.grpc
	if status == 0 {
		status = grpcStatusOf(no.status)
	}
	h := x.w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(status))
	h.Set("Grpc-Message", grpcMessage(no.text))
	x.modifyAnswer(h)
	x.rec.GRPCStatus = status
	x.writeHeader(http.StatusOK)
}

// writeHeader writes the answer's header, once.
func (x *passage) writeHeader(status int) {
	x.wrote = true
	x.rec.Status = status
	x.rec.Header = x.p.now().Sub(x.rec.Start)
	x.w.WriteHeader(status)
}

// Of gRPC's status codes.
const (
	grpcCancelled         = 1
	grpcUnknown           = 2
	grpcInvalidArgument   = 3
	grpcDeadlineExceeded  = 4
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcUnimplemented     = 12
	grpcInternal          = 13
	grpcUnavailable       = 14
	grpcUnauthenticated   = 16
)

// grpcStatusOf is what a refusal's HTTP status means in gRPC. (gRPC's own table is about answers of those who do not
// speak gRPC; there 400 and 429 say less.)
func grpcStatusOf(status int) int {
	switch status {
	case http.StatusBadRequest:
		return grpcInvalidArgument
	case http.StatusUnauthorized:
		return grpcUnauthenticated
	case http.StatusForbidden:
		return grpcPermissionDenied
	case http.StatusNotFound:
		return grpcUnimplemented
	case http.StatusTooManyRequests:
		return grpcResourceExhausted
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusInternalServerError:
		return grpcUnavailable
	case http.StatusGatewayTimeout:
		return grpcDeadlineExceeded
	}
	return grpcUnknown
}

// httpStatusOf is the HTTP status that a gRPC status counts as for retries.
func httpStatusOf(grpc int) int {
	switch grpc {
	case grpcUnavailable:
		return http.StatusServiceUnavailable
	case grpcDeadlineExceeded:
		return http.StatusGatewayTimeout
	case grpcResourceExhausted:
		return http.StatusTooManyRequests
	case grpcInternal, grpcUnknown:
		return http.StatusInternalServerError
	}
	return http.StatusOK
}

// grpcMessage escapes a message as gRPC's protocol over HTTP/2 wants it.
func grpcMessage(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' || r == '%' }) < 0 {
		return text
	}
	return strings.ReplaceAll(url.PathEscape(text), "%20", " ")
}

// rateLimited says how long to wait, in the terms of draft-ietf-httpapi-ratelimit-headers and in the older X-RateLimit-*,
// which most clients read.
func rateLimited(name string, limit, remaining, seconds int) *refusal {
	no := refusalOf(http.StatusTooManyRequests, exchange.Limited, "too many requests")
	no.detail = "rate limit " + name
	wait, left, quota := strconv.Itoa(seconds), strconv.Itoa(remaining), strconv.Itoa(limit)
	no.header = http.Header{
		"Retry-After":           {wait},
		"Ratelimit-Policy":      {fmt.Sprintf("%s;q=%s", quoted(name), quota)},
		"Ratelimit":             {fmt.Sprintf("%s;r=%s;t=%s", quoted(name), left, wait)},
		"X-Ratelimit-Limit":     {quota},
		"X-Ratelimit-Remaining": {left},
		"X-Ratelimit-Reset":     {wait},
	}
	return no
}

// quoted is a structured field's string (RFC 8941, 3.3.3).
func quoted(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
