// Package authn authenticates requests by JSON Web Tokens (RFC 7519), as RequestAuthentications say: it finds tokens,
// verifies them against their issuer's keys, says what they claim, and hands that on. It decides nothing about what a
// token is good for: that is package policy's.
//
// A request without a token passes, without a request principal. Every token that it does have, where a rule looks for
// one, must be valid for a rule of its issuer that looks there; else the request is refused (401). Of several valid
// tokens the one of the first rule, and of its first place, is the request's.
//
// Only asymmetric algorithms are taken (package keyset), and what a token says of its own keys (jwk, jku, x5u, x5c) is
// not heard. A token must have exp; exp, nbf and iat are held with 60 seconds of leeway. A token with critical header
// parameters, a claim that is there twice, or more than 16 KiB is refused, as is a request with more than 4 tokens.
package authn

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/warren-mesh/warren/policy"
)

// Config says how an Authenticator reaches issuers.
type Config struct {
	// Dial connects to where keys are fetched. Nil: plain TCP, but not to loopback, link-local or multicast addresses,
	// because whoever writes a policy also chooses where to.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Transport replaces Dial and everything beside it; for tests.
	Transport http.RoundTripper
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger
}

// Authenticator authenticates requests. Close it when done.
type Authenticator struct {
	now    func() time.Time
	remote *remote
	inline *inline
}

// New makes an Authenticator.
func New(cfg Config) *Authenticator {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Authenticator{now: cfg.Now, remote: newRemote(cfg), inline: newInline()}
}

// Close ends fetches and waits for them.
func (a *Authenticator) Close() { a.remote.close() }

// Result is what is known of an authenticated request.
type Result struct {
	// Token is zero if the request has none.
	Token policy.Token

	strip []found
}

// Authenticate verifies the tokens of a request against those RequestAuthentications that apply to it. It removes the
// headers in which these hand claims on, as far as the client sent them, and sets them from the token that counts.
// Returns an *Error if the request must be refused.
func (a *Authenticator) Authenticate(ctx context.Context, apply []*policy.Authentication, r *http.Request) (Result, error) {
	if len(apply) == 0 {
		return Result{}, nil
	}
	removeOutputs(apply, r.Header)
	tokens, err := find(apply, r)
	if err != nil {
		return Result{}, err
	}
	var out Result
	var first *verified
	for _, t := range tokens {
		v, err := a.verify(ctx, t)
		if err != nil {
			return Result{}, err
		}
		if !v.rule.ForwardOriginalToken {
			out.strip = append(out.strip, t)
		}
		if first == nil || v.order < first.order {
			first = v
		}
	}
	if first != nil {
		out.Token = first.token
		setOutputs(first, r.Header)
	}
	return out, nil
}

// Strip removes from a request, which is about to be forwarded, the tokens that are not to be.
func (r Result) Strip(out *http.Request) {
	for _, f := range r.strip {
		f.remove(out)
	}
}
