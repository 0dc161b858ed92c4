package hbone

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	reasonHeader = "warren-reason"
	ruleHeader   = "warren-rule"
	// maxRule is how long a rule's name may be: what is longer is cut by who sends it, and not taken from who does not.
	maxRule = 256
)

// headerEncoder makes header blocks. Its dynamic table has size 0, so a block depends on no other one and blocks may be
// written in any order. It belongs to whoever holds conn.ctlMu.
type headerEncoder struct {
	buf bytes.Buffer
	enc *hpack.Encoder
}

func newHeaderEncoder() *headerEncoder {
	e := new(headerEncoder)
	e.enc = hpack.NewEncoder(&e.buf)
	e.enc.SetMaxDynamicTableSize(0)
	return e
}

// field is one header field. An empty value is left out.
type field struct{ name, value string }

// block returns the encoded fields, valid until the next call.
func (e *headerEncoder) block(fields []field) []byte {
	e.buf.Reset()
	for _, f := range fields {
		if f.value != "" {
			// A bytes.Buffer does not fail.
			_ = e.enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
		}
	}
	return e.buf.Bytes()
}

func (r Request) fields() []field {
	return []field{
		{":method", "CONNECT"},
		{":authority", r.Authority},
		{"forwarded", r.Forwarded},
		{"traceparent", r.Traceparent},
		{"baggage", r.Baggage},
	}
}

// notConnect is what parseRequest returns for a well-formed request of another method: it is answered, not reset.
type notConnect struct{ status int }

func (e notConnect) Error() string { return "request is not a CONNECT" }

// parseRequest reads a request's header list. It returns a notConnect for one that deserves an answer, any other error
// for a malformed one (RFC 9113 section 8.1.1), which costs the peer the stream.
func parseRequest(f *http2.MetaHeadersFrame) (Request, error) {
	if f.Truncated {
		return Request{}, notConnect{431}
	}
	if err := checkRegular(f.RegularFields()); err != nil {
		return Request{}, err
	}
	if method := f.PseudoValue("method"); method != "CONNECT" {
		return Request{}, checkOther(f, method)
	}
	for _, p := range f.PseudoFields() {
		if p.Name != ":method" && p.Name != ":authority" {
			return Request{}, fmt.Errorf("CONNECT with %s", p.Name)
		}
	}
	r := Request{Authority: f.PseudoValue("authority")}
	if r.Authority == "" {
		return Request{}, fmt.Errorf("CONNECT without :authority")
	}
	if !validAuthority(r.Authority) {
		return Request{}, notConnect{400}
	}
	r.readAttribution(f.RegularFields())
	return r, nil
}

// readAttribution takes the first value of each field, if it is not too long.
func (r *Request) readAttribution(fields []hpack.HeaderField) {
	for _, f := range fields {
		switch {
		case f.Name == "forwarded" && r.Forwarded == "" && len(f.Value) <= MaxForwarded:
			r.Forwarded = f.Value
		case f.Name == "traceparent" && r.Traceparent == "" && len(f.Value) <= MaxTraceparent:
			r.Traceparent = f.Value
		case f.Name == "baggage" && r.Baggage == "" && len(f.Value) <= MaxBaggage:
			r.Baggage = f.Value
		}
	}
}

// checkRegular refuses the connection-specific fields of HTTP/1, RFC 9113 section 8.2.2. Names and values were checked by
// the Framer.
func checkRegular(fields []hpack.HeaderField) error {
	for _, f := range fields {
		switch f.Name {
		case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
			return fmt.Errorf("connection-specific header %s", f.Name)
		case "te":
			if f.Value != "trailers" {
				return fmt.Errorf("header te is not trailers")
			}
		}
	}
	return nil
}

// checkOther returns a notConnect if a request that is not a CONNECT is well formed, RFC 9113 section 8.3.1.
func checkOther(f *http2.MetaHeadersFrame, method string) error {
	if method == "" || f.PseudoValue("scheme") == "" || f.PseudoValue("path") == "" {
		return fmt.Errorf("request without :method, :scheme or :path")
	}
	if f.PseudoValue("protocol") != "" || f.PseudoValue("status") != "" {
		return fmt.Errorf("request with :protocol or :status")
	}
	return notConnect{405}
}

// contentLength returns the declared length of a request's body, -1 if none is declared or it is not a number.
func contentLength(f *http2.MetaHeadersFrame) int64 {
	for _, h := range f.RegularFields() {
		if h.Name == "content-length" {
			if n, err := strconv.ParseUint(h.Value, 10, 62); err == nil {
				return int64(n)
			}
		}
	}
	return -1
}

// parseResponse reads an answer's header list. Status is 0 if it is malformed.
func parseResponse(f *http2.MetaHeadersFrame) StatusError {
	status := f.PseudoValue("status")
	n, err := strconv.Atoi(status)
	if err != nil || len(status) != 3 || n < 100 || f.Truncated ||
		len(f.PseudoFields()) != 1 || checkRegular(f.RegularFields()) != nil {
		return StatusError{}
	}
	answer := StatusError{Status: n}
	for _, h := range f.RegularFields() {
		switch {
		case h.Name == reasonHeader && answer.Reason == "" && isToken(h.Value):
			answer.Reason = h.Value
		case h.Name == ruleHeader && answer.Rule == "" && isRule(h.Value):
			answer.Rule = h.Value
		}
	}
	return answer
}

// isToken tells whether s is a reason as StatusError documents it, so that it may be logged as it is.
func isToken(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// isRule tells whether s may be a rule's name as StatusError documents it: printable ASCII, so that it may be shown.
func isRule(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= maxRule
}

// cutRule bounds a rule's name.
func cutRule(s string) string {
	const more = "..."
	if len(s) > maxRule {
		s = s[:maxRule-len(more)] + more
	}
	return s
}
