package extauthz

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/warren-mesh/warren/route"
	"github.com/warren-mesh/warren/waypoint/proxy"
)

// maxMutations bounds what an answer changes.
const maxMutations = 256

// header is one header of an answer and what becomes of it.
type header struct {
	name, value string
	how         change
}

type change uint8

const (
	set change = iota
	appended
	ifAbsent
	ifPresent
	drop
)

// apply changes headers as the authorizer said.
func (c header) apply(h http.Header) {
	_, there := h[c.name]
	switch {
	case c.how == drop:
		delete(h, c.name)
	case c.how == appended:
		h[c.name] = append(h[c.name], c.value)
	case c.how == ifAbsent && there, c.how == ifPresent && !there:
	default:
		h[c.name] = []string{c.value}
	}
}

// modify says in terms of a request's header what apply does to it.
func (c header) modify(m *route.HeaderModifier, h http.Header) {
	_, there := h[c.name]
	switch {
	case c.how == drop:
		m.Remove = append(m.Remove, c.name)
	case c.how == appended:
		m.Add = append(m.Add, route.Header{Name: c.name, Value: c.value})
	case c.how == ifAbsent && there, c.how == ifPresent && !there:
	default:
		m.Set = append(m.Set, route.Header{Name: c.name, Value: c.value})
	}
}

// withoutParam leaves a parameter out of a query, and everything else as it is.
func withoutParam(query, name string) string {
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if unescaped, err := url.QueryUnescape(key); pair == "" || err == nil && unescaped == name {
			continue
		}
		kept = append(kept, pair)
	}
	return strings.Join(kept, "&")
}

// read reads an answer about a request. One that cannot be followed as it is written is an error.
func read(answer *authv3.CheckResponse, r *http.Request) (proxy.Answer, error) {
	if answer.GetStatus() == nil {
		return proxy.Answer{}, errors.New("the answer has no status")
	}
	if codes.Code(uint32(answer.GetStatus().GetCode())) != codes.OK {
		return readDenial(answer.GetDeniedResponse())
	}
	if answer.GetDeniedResponse() != nil || answer.GetErrorResponse() != nil {
		return proxy.Answer{}, errors.New("the answer is OK and a refusal at once")
	}
	return readOK(answer.GetOkResponse(), r)
}

func readOK(ok *authv3.OkHttpResponse, r *http.Request) (proxy.Answer, error) {
	a := proxy.Answer{Allowed: true, AnswerHeader: make(http.Header)}
	if n := len(ok.GetHeaders()) + len(ok.GetHeadersToRemove()) + len(ok.GetQueryParametersToSet()) +
		len(ok.GetQueryParametersToRemove()) + len(ok.GetResponseHeadersToAdd()); n > maxMutations {
		return proxy.Answer{}, fmt.Errorf("the answer changes %d things, more than %d", n, maxMutations)
	}
	for _, o := range ok.GetHeaders() {
		c, err := readHeader(o)
		if err != nil {
			return proxy.Answer{}, err
		}
		c.modify(&a.Change, r.Header)
	}
	for _, name := range ok.GetHeadersToRemove() {
		canonical, err := headerName(name)
		if err != nil {
			return proxy.Answer{}, err
		}
		a.Change.Remove = append(a.Change.Remove, canonical)
	}
	for _, o := range ok.GetResponseHeadersToAdd() {
		c, err := readHeader(o)
		if err != nil {
			return proxy.Answer{}, err
		}
		a.AnswerHeader.Add(c.name, c.value)
	}
	if len(ok.GetQueryParametersToSet())+len(ok.GetQueryParametersToRemove()) > 0 {
		query := changeQuery(r.URL.RawQuery, ok)
		a.Query = &query
	}
	return a, nil
}

// changeQuery sets parameters, and then removes others.
func changeQuery(query string, ok *authv3.OkHttpResponse) string {
	for _, p := range ok.GetQueryParametersToSet() {
		query = withoutParam(query, p.GetKey())
		query = strings.TrimPrefix(query+"&", "&") + url.QueryEscape(p.GetKey()) + "=" + url.QueryEscape(p.GetValue())
	}
	for _, name := range ok.GetQueryParametersToRemove() {
		query = withoutParam(query, name)
	}
	return query
}

func readDenial(d *authv3.DeniedHttpResponse) (proxy.Answer, error) {
	a := proxy.Answer{Status: http.StatusForbidden, Header: make(http.Header), Body: d.GetBody()}
	if code := int(d.GetStatus().GetCode()); code >= 200 && code <= 599 {
		a.Status = code
	}
	if len(d.GetHeaders()) > maxMutations {
		return proxy.Answer{}, fmt.Errorf("the refusal has %d headers, more than %d", len(d.GetHeaders()), maxMutations)
	}
	for _, o := range d.GetHeaders() {
		c, err := readHeader(o)
		if err != nil {
			return proxy.Answer{}, err
		}
		c.apply(a.Header)
	}
	return a, nil
}

func readHeader(o *corev3.HeaderValueOption) (header, error) {
	name, err := headerName(o.GetHeader().GetKey())
	if err != nil {
		return header{}, err
	}
	value := o.GetHeader().GetValue()
	if value == "" {
		value = string(o.GetHeader().GetRawValue())
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return header{}, fmt.Errorf("the answer's header %s has a control character", name)
	}
	return header{name: name, value: value, how: changeOf(o, value)}, nil
}

// changeOf says how a header changes. Unless the answer says otherwise it is set: a client's own value must not stay
// beside the authorizer's.
func changeOf(o *corev3.HeaderValueOption, value string) change {
	if value == "" && !o.GetKeepEmptyValue() {
		return drop
	}
	//lint:ignore SA1019 authorizers still say it this way
	if old := o.GetAppend(); old != nil {
		if old.GetValue() {
			return appended
		}
		return set
	}
	switch o.GetAppendAction() {
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		return ifAbsent
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		return ifPresent
	}
	return set
}

// headerName refuses what frames a message or says whom it is for: another request than the one that was asked about.
func headerName(name string) (string, error) {
	valid := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
	if !valid {
		return "", fmt.Errorf("the answer changes %.64q, which is no header", name)
	}
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	switch canonical {
	case "Host", "Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return "", fmt.Errorf("the answer changes %s, which frames the request or says whom it is for", canonical)
	}
	return canonical, nil
}
