package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func TestClientMeetsMalice(t *testing.T) {
	hello := func() *script { return new(script).frame(http2.FrameSettings, 0, 0) }
	ok := func() *script { return hello().headers(1, ":status", "200") }
	refused := func(code Code) func(error) bool {
		return func(err error) bool {
			ce, re := new(ConnError), new(ResetError)
			return errors.As(err, &ce) && ce.Local && ce.Code == code || errors.As(err, &re) && !re.Remote && re.Code == code
		}
	}
	protocol := refused(http2.ErrCodeProtocol)
	for _, c := range []struct {
		name   string
		script *script
		ok     func(error) bool // of Connect and then Read
	}{
		{"200", ok().frame(http2.FrameData, http2.FlagDataEndStream, 1), func(err error) bool { return err == io.EOF }},
		{"200 that ends at once", hello().frame(http2.FrameHeaders, endHeaders|endStream, 1, block(":status", "200")...), func(err error) bool { return err == io.EOF }},
		{"100 before 200", hello().headers(1, ":status", "100").headers(1, ":status", "200").frame(http2.FrameData, http2.FlagDataEndStream, 1), func(err error) bool { return err == io.EOF }},
		{"204", hello().headers(1, ":status", "204"), status(204, "")},
		{"503 with a reason", hello().headers(1, ":status", "503", reasonHeader, "no_upstream"), status(503, "no_upstream")},
		{"401 with a rule", hello().headers(1, ":status", "401", reasonHeader, "policy_denied", ruleHeader, "AuthorizationPolicy a/b rule[0]"),
			ruled(401, "policy_denied", "AuthorizationPolicy a/b rule[0]")},
		{"rule that is none", hello().headers(1, ":status", "401", ruleHeader, "a\xc2\x9bb"), ruled(401, "", "")},
		{"rule that is too long", hello().headers(1, ":status", "401", ruleHeader, strings.Repeat("a", 257)), ruled(401, "", "")},
		{"reason that is none", hello().headers(1, ":status", "503", reasonHeader, "<script>"), status(503, "")},
		{"status that is none", hello().headers(1, ":status", "2e2"), protocol},
		{"no status", hello().headers(1, "a", "b"), protocol},
		{"a request", hello().headers(1, ":method", "CONNECT", ":authority", "a:1"), protocol},
		{"answer to nothing", hello().headers(3, ":status", "200"), protocol},
		{"pushed stream", hello().headers(2, ":status", "200"), protocol},
		{"PUSH_PROMISE", hello().frame(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, be32(2)...), protocol},
		{"DATA before the answer", hello().frame(http2.FrameData, 0, 1, 'x'), protocol},
		{"second answer", ok().headers(1, ":status", "200"), protocol},
		{"trailers", ok().frame(http2.FrameHeaders, endHeaders|endStream, 1, block("a", "b")...), protocol},
		{"frame size setting 0", hello().setting(http2.SettingMaxFrameSize, 0), protocol},
		{"push setting 1", hello().setting(http2.SettingEnablePush, 1), protocol},
		{"HTTP/1", &script{*bytes.NewBufferString("HTTP/1.1 400 Bad Request\r\n\r\n")}, func(err error) bool {
			ce := new(ConnError)
			return errors.As(err, &ce) && ce.Local
		}},
		{"refused stream", hello().frame(http2.FrameRSTStream, 0, 1, be32(7)...), func(err error) bool { return errors.Is(err, ErrRefused) }},
		{"GOAWAY below the stream", hello().frame(http2.FrameGoAway, 0, 0, append(be32(0), be32(0)...)...), func(err error) bool { return errors.Is(err, ErrRefused) }},
		{"end without an answer", hello(), func(err error) bool { return errors.Is(err, ErrPeerGone) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, far := tcpPair(t)
			cc, _ := NewClientConn(near, Config{})
			defer cc.Close()
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				defer far.Close()
				fr := http2.NewFramer(io.Discard, far)
				io.ReadFull(far, make([]byte, len(http2.ClientPreface)))
				for {
					f, err := fr.ReadFrame()
					if err != nil {
						return
					}
					if f.Header().Type == http2.FrameHeaders {
						break
					}
				}
				far.Write(c.script.Bytes())
				far.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, far)
			}()
			s, err := cc.Connect(testContext(t), Request{Authority: "a:1"})
			if err == nil {
				s.SetReadDeadline(time.Now().Add(patience))
				_, err = s.Read(make([]byte, 1))
				s.Close()
			}
			if !c.ok(err) {
				t.Errorf("got %v", err)
			}
			cc.Close()
			<-drained
		})
	}
}

func status(code int, reason string) func(error) bool { return ruled(code, reason, "") }

func ruled(code int, reason, rule string) func(error) bool {
	return func(err error) bool {
		s := new(StatusError)
		return errors.As(err, &s) && *s == StatusError{code, reason, rule}
	}
}

// A refusal names the rule as far as it can be shown and is not too long.
func TestRefusalNamesTheRule(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct{ rule, want string }{
		{"AuthorizationPolicy shop/pay rule[0]", "AuthorizationPolicy shop/pay rule[0]"},
		{"", ""},
		{long, long[:253] + "..."},
		{"two\nlines", ""},
		{"caf\u00e9", ""},
	} {
		e := newPair(t, pairConfig{handle: func(_ context.Context, in *Inbound) { _ = in.RefuseBy(401, "policy_denied", c.rule) }})
		if _, err := e.Connect(t.Context(), Request{Authority: "a:1"}); !ruled(401, "policy_denied", c.want)(err) {
			t.Errorf("%.20q: %#v", c.rule, err)
		}
	}
}

// A client whose every CONNECT is denied keeps its connection: RST_STREAM crosses the answer each time.
func TestRefusalsAreNoOffence(t *testing.T) {
	e := newPair(t, pairConfig{handle: func(_ context.Context, in *Inbound) { _ = in.Refuse(401, "policy_denied") }})
	for range 5000 {
		if _, err := e.Connect(t.Context(), Request{Authority: "a:1"}); !status(401, "policy_denied")(err) {
			t.Fatalf("Connect: %v", err)
		}
	}
}
