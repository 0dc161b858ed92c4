package authn

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/keyset"
)

// verified is a valid token and the rule that it is valid by.
type verified struct {
	rule    *policy.JWTRule
	order   int
	token   policy.Token
	payload []byte
}

// verify holds a token against the rules of its issuer that look where it is. Returns an *Error.
func (a *Authenticator) verify(ctx context.Context, t found) (*verified, error) {
	signed, err := jose.ParseSignedCompact(t.token, keyset.Algorithms())
	if err != nil {
		return nil, invalid("the token is not a JWT signed with an asymmetric algorithm")
	}
	header := signed.Signatures[0].Protected
	if _, critical := header.ExtraHeaders["crit"]; critical {
		return nil, invalid("the token has critical header parameters")
	}
	if b64, ok := header.ExtraHeaders["b64"]; ok {
		return nil, invalid(fmt.Sprintf("the token's payload is not base64url: b64 is %v", b64))
	}
	claims, err := readClaims(signed.UnsafePayloadWithoutVerification())
	if err != nil {
		return nil, invalid(err.Error())
	}
	refused := invalid("the token's issuer is not one whose tokens are taken here")
	for _, l := range t.rules {
		if l.rule.Issuer != claims.issuer {
			continue
		}
		payload, e := a.verifySignature(ctx, l.rule, signed)
		if e == nil {
			e = claims.check(l.rule, a.now())
		}
		if e == nil {
			return &verified{rule: l.rule, order: l.order, token: claims.token(), payload: payload}, nil
		}
		refused = e
	}
	return nil, refused
}

// verifySignature returns the payload that the issuer signed.
func (a *Authenticator) verifySignature(ctx context.Context, rule *policy.JWTRule, signed *jose.JSONWebSignature) ([]byte, *Error) {
	header := signed.Signatures[0].Protected
	set, err := a.keys(ctx, rule, header.KeyID)
	if err != nil {
		return nil, keyless(fmt.Sprintf("the keys of issuer %s are not to be had: %v", rule.Issuer, err))
	}
	keys := set.Keys(header.KeyID, header.Algorithm)
	if len(keys) == 0 {
		return nil, invalid("the token's issuer has no key with the token's kid and alg")
	}
	for _, k := range keys {
		if payload, err := signed.Verify(k.Public); err == nil {
			return payload, nil
		}
	}
	return nil, invalid("the token's signature does not fit")
}

func (a *Authenticator) keys(ctx context.Context, rule *policy.JWTRule, kid string) (*keyset.Set, error) {
	if rule.JWKS != "" {
		return a.inline.keys(rule.JWKS)
	}
	return a.remote.keys(ctx, rule, kid)
}

// encoded is a payload as headers carry it.
func encoded(payload []byte) string { return base64.RawURLEncoding.EncodeToString(payload) }

// isFieldValue tells whether a text may be a header's value.
func isFieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
