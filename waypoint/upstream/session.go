package upstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"time"

	"github.com/warren-mesh/warren/route"
)

// A session (GEP-1619) is kept by the client alone: a cookie or a header whose value names the endpoint, when the
// session began and when it was last used. All replicas of a waypoint understand it, as what it names is a hash of the
// service and the endpoint's workload that each of them works out for itself.
//
// The value is not authenticated. Whoever makes one up chooses among endpoints that their request might have come to
// anyway, or prolongs their own session: both can be had by asking often enough, and policy is asked after the choice.
// In turn there is no key that replicas would have to share. The value does not give away a pod's name, UID or address.

// token names an endpoint of one service: 6 bytes for the service and 12 for the endpoint.
type token [18]byte

const serviceTag = 6

// stamp is when a session began and was last used, in unix seconds; zero is no session.
type stamp struct{ began, used uint32 }

func tokenOf(service serviceKey, peer peerKey) (t token) {
	tag := tagOf(service.namespace, service.name)
	who := string(peer.uid)
	if who == "" {
		who = peer.addr.String()
	}
	h := sha256.Sum256([]byte("endpoint\x00" + service.namespace + "/" + service.name + "\x00" + who))
	copy(t[:], tag[:])
	copy(t[serviceTag:], h[:])
	return t
}

func tagOf(namespace, name string) (tag [serviceTag]byte) {
	h := sha256.Sum256([]byte("service\x00" + namespace + "/" + name))
	copy(tag[:], h[:])
	return tag
}

// encoded returns a session's value.
func encoded(t token, s stamp) string {
	b := make([]byte, 0, len(t)+8)
	b = append(b, t[:]...)
	b = binary.BigEndian.AppendUint32(b, s.began)
	b = binary.BigEndian.AppendUint32(b, s.used)
	return base64.RawURLEncoding.EncodeToString(b)
}

// decoded reads a session's value.
func decoded(value string) (t token, s stamp, ok bool) {
	var b [len(t) + 8]byte
	if len(value) != base64.RawURLEncoding.EncodedLen(len(b)) {
		return t, s, false
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(value)); err != nil || n != len(b) {
		return t, s, false
	}
	copy(t[:], b[:])
	s = stamp{binary.BigEndian.Uint32(b[len(t):]), binary.BigEndian.Uint32(b[len(t)+4:])}
	return t, s, s.began != 0
}

// fresh tells whether a session goes on.
func (s stamp) fresh(of *route.Session, now time.Time) bool {
	const skew = time.Minute // between replicas' clocks
	began, used := time.Unix(int64(s.began), 0), time.Unix(int64(s.used), 0)
	if began.After(now.Add(skew)) || used.After(now.Add(skew)) || used.Before(began) {
		return false
	}
	return (of.Absolute == 0 || now.Before(began.Add(of.Absolute))) && (of.Idle == 0 || now.Before(used.Add(of.Idle)))
}

// sessionName is the cookie's or the header's.
func sessionName(s *route.Session) string {
	switch {
	case s.Name != "":
		return s.Name
	case s.Cookie:
		return "warren-session"
	}
	return "X-Warren-Session"
}

// sessionOf returns the session that a request carries.
func sessionOf(s *route.Session, r *http.Request, now time.Time) (token, stamp, bool) {
	value := ""
	if s.Cookie {
		value = cookieOf(r, sessionName(s))
	} else {
		value = r.Header.Get(sessionName(s))
	}
	t, at, ok := decoded(value)
	return t, at, ok && at.fresh(s, now)
}

// session returns the endpoint that the request's session names, if it is usable.
func (c *chooser) session(usable []*entry) (*entry, stamp) {
	t, at, ok := sessionOf(c.ask.Session, c.ask.Request, c.now)
	if !ok {
		return nil, stamp{}
	}
	for _, e := range usable {
		if e.token == t {
			return e, at
		}
	}
	return nil, stamp{}
}

// SessionBackend returns the backend whose endpoint the request's session names, nil if it has none or the backend
// takes no requests any more: a session stays, however the weights would have it.
func SessionBackend(s *route.Session, r *http.Request, of []route.Backend, now time.Time) *route.Backend {
	t, _, ok := sessionOf(s, r, now)
	if !ok {
		return nil
	}
	for i := range of {
		namespace, name, _ := strings.Cut(of[i].Service, "/")
		tag := tagOf(namespace, name)
		if of[i].Weight > 0 && of[i].Broken == "" && bytes.Equal(tag[:], t[:serviceTag]) {
			return &of[i]
		}
	}
	return nil
}

// SessionHeader returns the header that keeps the answer's client at the pick's endpoint, "" if it has it already.
func (p *Pick) SessionHeader(s *route.Session) (name, value string) {
	if s == nil || p.resumed.began != 0 && s.Idle == 0 {
		return "", ""
	}
	at := stamp{used: uint32(p.started.Unix())}
	if at.began = p.resumed.began; at.began == 0 {
		at.began = at.used
	}
	value = encoded(p.entry.token, at)
	if !s.Cookie {
		return sessionName(s), value
	}
	c := http.Cookie{Name: sessionName(s), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if s.Permanent && s.Absolute > 0 {
		c.MaxAge = int(time.Unix(int64(at.began), 0).Add(s.Absolute).Sub(p.started) / time.Second)
	}
	if value = c.String(); value == "" { // the name is none that a cookie can have
		return "", ""
	}
	return "Set-Cookie", value
}
