package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warren-mesh/warren/policy"
)

const issuer = "https://id.example"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// signer is an issuer's key.
type signer struct {
	private   crypto.Signer
	algorithm jose.SignatureAlgorithm
	kid       string
}

func newSigner(t testing.TB, kid string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, jose.ES256, kid}
}

func jwks(t testing.TB, signers ...signer) string {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, s := range signers {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: s.private.Public(), KeyID: s.kid})
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// claim is what a good token says, changed; a nil value leaves it out.
func claim(changes map[string]any) map[string]any {
	all := map[string]any{"iss": issuer, "sub": "ann", "aud": []string{"shop"}, "exp": noon.Add(time.Hour).Unix(), "iat": noon.Unix()}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func (s signer) sign(t testing.TB, payload any) string {
	t.Helper()
	raw, ok := payload.(string)
	if !ok {
		b, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		raw = string(b)
	}
	options := (&jose.SignerOptions{}).WithType("JWT")
	if s.kid != "" {
		options = options.WithHeader("kid", s.kid)
	}
	j, err := jose.NewSigner(jose.SigningKey{Algorithm: s.algorithm, Key: s.private}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := j.Sign([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func apply(rules ...policy.JWTRule) []*policy.Authentication {
	return []*policy.Authentication{{Namespace: "shop", Name: "jwt", Rules: rules}}
}

func newAuthenticator(t testing.TB, cfg Config) *Authenticator {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return noon }
	}
	a := New(cfg)
	t.Cleanup(a.Close)
	return a
}

func bearer(tokens ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://web.shop/", nil)
	for _, token := range tokens {
		r.Header.Add("Authorization", "Bearer "+token)
	}
	return r
}

func refusal(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is not an *Error", err)
	}
	return e
}

func TestEveryAsymmetricAlgorithm(t *testing.T) {
	small, _ := rsa.GenerateKey(rand.Reader, 2048)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	a := newAuthenticator(t, Config{})
	for _, s := range []signer{
		{small, jose.RS256, "a"}, {small, jose.RS384, "a"}, {small, jose.RS512, "a"}, {small, jose.PS256, "a"}, {small, jose.PS384, "a"},
		{small, jose.PS512, "a"}, {p256, jose.ES256, "a"}, {p384, jose.ES384, "a"}, {p521, jose.ES512, "a"}, {ed, jose.EdDSA, "a"},
	} {
		rules := apply(policy.JWTRule{Issuer: issuer, JWKS: jwks(t, s), Audiences: []string{"bank", "shop"}})
		token := s.sign(t, claim(map[string]any{"azp": "cli", "groups": []string{"ops"}}))
		got, err := a.Authenticate(t.Context(), rules, bearer(token))
		if err != nil || got.Token.Principal() != issuer+"/ann" || got.Token.Presenter != "cli" || got.Token.Audiences[0] != "shop" {
			t.Errorf("%s: %+v, %v", s.algorithm, got.Token, err)
		}
		tail := token[:len(token)-6] + "AAAAAA"
		if _, err := a.Authenticate(t.Context(), rules, bearer(tail)); err == nil || refusal(t, err).Status != 401 {
			t.Errorf("%s: a changed signature: %v", s.algorithm, err)
		}
	}
}

func TestNoTokenPassesWithoutPrincipal(t *testing.T) {
	s := newSigner(t, "a")
	a := newAuthenticator(t, Config{})
	for _, rules := range [][]*policy.Authentication{nil, apply(policy.JWTRule{Issuer: issuer, JWKS: jwks(t, s)})} {
		r := bearer()
		r.Header.Set("Authorization", "Basic YTpi")
		got, err := a.Authenticate(t.Context(), rules, r)
		if err != nil || !got.Token.IsZero() {
			t.Errorf("%+v, %v", got.Token, err)
		}
	}
	// Where no rule looks, what looks like a token is not one.
	got, err := a.Authenticate(t.Context(), nil, bearer("rubbish"))
	if err != nil || !got.Token.IsZero() {
		t.Errorf("%+v, %v", got.Token, err)
	}
}

func unsigned(header, payload string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(header)) + "." + e([]byte(payload)) + "."
}

func TestInvalidTokensAreRefused(t *testing.T) {
	s, stranger := newSigner(t, "a"), newSigner(t, "a")
	set := jwks(t, s)
	good, _ := json.Marshal(claim(nil))
	hs, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(set)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mac, _ := hs.Sign(good)
	symmetric, _ := mac.CompactSerialize()
	crit, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: s.private}, (&jose.SignerOptions{}).WithHeader("crit", []string{"x"}).WithHeader("x", 1))
	critical, _ := crit.Sign(good)
	criticalText, _ := critical.CompactSerialize()
	with := func(name string, value any) string { return s.sign(t, claim(map[string]any{name: value})) }
	tests := []struct{ why, token string }{
		{"not a JWT", "rubbish"},
		{"not a JWT", unsigned(`{"alg":"none"}`, string(good))},
		{"not a JWT", unsigned(`{"alg":"None"}`, string(good))},
		{"not a JWT", symmetric},
		{"critical", criticalText},
		{"signature does not fit", stranger.sign(t, claim(nil))},
		{"no key with the token's kid", signer{s.private, s.algorithm, "other"}.sign(t, claim(nil))},
		{"issuer is not one", with("iss", "https://other.example")},
		{"issuer is not one", with("iss", nil)},
		{"issuer is not one", with("iss", issuer+"/")},
		{"is not text", with("iss", 7)},
		{"is not text", with("sub", []string{"ann"})},
		{"is not text", with("aud", map[string]any{})},
		{"another audience", with("aud", "bank")},
		{"another audience", with("aud", nil)},
		{"has expired", with("exp", noon.Add(-61*time.Second).Unix())},
		{"has expired", with("exp", noon.Add(-60*time.Second).Unix())},
		{"when it expires", with("exp", nil)},
		{"when it expires", with("exp", "tomorrow")},
		{"when it expires", with("exp", 1e300)},
		{"nbf is in the future", with("nbf", noon.Add(61*time.Second).Unix())},
		{"iat is in the future", with("iat", noon.Add(61*time.Second).Unix())},
		{"nbf is not a date", with("nbf", -1)},
		{"there twice", s.sign(t, `{"iss":"`+issuer+`","iss":"x","exp":1900000000}`)},
		{"one JSON object", s.sign(t, `[1]`)},
		{"one JSON object", s.sign(t, `null`)},
		{"longer than 16 KiB", strings.Repeat("a", maxTokenBytes+1)},
	}
	a := newAuthenticator(t, Config{})
	rules := apply(policy.JWTRule{Issuer: issuer, JWKS: set, Audiences: []string{"shop"}})
	for _, tt := range tests {
		_, err := a.Authenticate(t.Context(), rules, bearer(tt.token))
		if err == nil {
			t.Errorf("%s: accepted", tt.why)
			continue
		}
		e := refusal(t, err)
		if e.Status != 401 || !strings.Contains(e.Reason, tt.why) ||
			!strings.HasPrefix(e.Challenge, `Bearer error="invalid_token", error_description="`) || strings.Count(e.Challenge, `"`) != 4 {
			t.Errorf("%s: %+v", tt.why, e)
		}
	}
	for _, ok := range []string{with("exp", noon.Add(-59*time.Second).Unix()), with("nbf", noon.Add(60*time.Second).Unix()), with("exp", 1.9e9+0.5)} {
		if _, err := a.Authenticate(t.Context(), rules, bearer(ok)); err != nil {
			t.Errorf("within the leeway: %v", err)
		}
	}
}

func TestEveryTokenMustBeValid(t *testing.T) {
	s, other := newSigner(t, "a"), newSigner(t, "b")
	rules := apply(
		policy.JWTRule{Issuer: issuer, JWKS: jwks(t, s)},
		policy.JWTRule{Issuer: "https://b.example", JWKS: jwks(t, other), FromHeaders: []policy.TokenHeader{{Name: "x-jwt"}}},
	)
	a := newAuthenticator(t, Config{})
	good := s.sign(t, claim(nil))
	second := other.sign(t, claim(map[string]any{"iss": "https://b.example", "sub": "bob"}))
	r := bearer(good)
	r.Header.Set("X-Jwt", second)
	if got, err := a.Authenticate(t.Context(), rules, r); err != nil || got.Token.Subject != "ann" {
		t.Errorf("two valid tokens: %+v, %v", got.Token, err)
	}
	// Each issuer's tokens are taken only where its rule looks.
	for _, r := range []*http.Request{bearer(second), bearer(good, "rubbish"), bearer("rubbish", good)} {
		if _, err := a.Authenticate(t.Context(), rules, r); err == nil {
			t.Errorf("accepted: %q", r.Header)
		}
	}
	many := bearer(good)
	for i := range maxTokens {
		many.Header.Add("Authorization", "Bearer "+s.sign(t, claim(map[string]any{"n": i})))
	}
	if _, err := a.Authenticate(t.Context(), rules, many); err == nil || !strings.Contains(err.Error(), "more than 4 tokens") {
		t.Errorf("five tokens: %v", err)
	}
	// Two rules of one issuer: one of them is enough.
	either := apply(policy.JWTRule{Issuer: issuer, JWKS: jwks(t, other)}, policy.JWTRule{Issuer: issuer, JWKS: jwks(t, s)})
	if got, err := a.Authenticate(t.Context(), either, bearer(good)); err != nil || got.Token.Subject != "ann" {
		t.Errorf("the second rule: %+v, %v", got.Token, err)
	}
}

func TestPlacesAndWhatIsForwarded(t *testing.T) {
	s := newSigner(t, "")
	token := s.sign(t, claim(nil))
	rule := func(forward bool) []*policy.Authentication {
		return apply(policy.JWTRule{Issuer: issuer, JWKS: jwks(t, s), ForwardOriginalToken: forward,
			FromHeaders: []policy.TokenHeader{{Name: "x-token", Prefix: "jwt "}}, FromParams: []string{"access token"}, FromCookies: []string{"session"}})
	}
	a := newAuthenticator(t, Config{})
	requests := map[string]struct {
		make func(*http.Request)
		want string // of what is left: query, X-Token and Cookie
	}{
		"header": {func(r *http.Request) { r.Header["X-Token"] = []string{"JWT " + token, "other"} }, "a=1&b=%zz|other|"},
		"param": {func(r *http.Request) {
			r.URL.RawQuery = "a=1&access%20token=" + token + "&b=%zz&access+token=" + token
		}, "a=1&b=%zz||"},
		"cookie":      {func(r *http.Request) { r.Header.Set("Cookie", "a=b; session="+token+"; c=d") }, "a=1&b=%zz||a=b; c=d"},
		"only cookie": {func(r *http.Request) { r.Header.Set("Cookie", "session="+token) }, "a=1&b=%zz||"},
	}
	for name, tt := range requests {
		for _, forward := range []bool{false, true} {
			r := httptest.NewRequest("GET", "http://web.shop/?a=1&b=%zz", nil)
			tt.make(r)
			before := r.URL.RawQuery + "|" + strings.Join(r.Header["X-Token"], ",") + "|" + strings.Join(r.Header["Cookie"], ",")
			got, err := a.Authenticate(t.Context(), rule(forward), r)
			if err != nil || got.Token.Subject != "ann" {
				t.Errorf("%s: %+v, %v", name, got.Token, err)
			}
			got.Strip(r)
			after := r.URL.RawQuery + "|" + strings.Join(r.Header["X-Token"], ",") + "|" + strings.Join(r.Header["Cookie"], ",")
			want := tt.want
			if forward {
				want = before
			}
			if after != want {
				t.Errorf("%s, forward %t: left %q, want %q", name, forward, after, want)
			}
		}
	}
}

func TestClaimsAreHandedOnAndNotForged(t *testing.T) {
	s := newSigner(t, "a")
	rules := apply(policy.JWTRule{Issuer: issuer, JWKS: jwks(t, s), OutputPayloadToHeader: "x-claims", ClaimsToHeaders: []policy.ClaimToHeader{
		{Header: "x-sub", Claim: "sub"}, {Header: "x-level", Claim: "level"}, {Header: "x-role", Claim: "realm.role"},
		{Header: "x-list", Claim: "list"}, {Header: "x-evil", Claim: "evil"}, {Header: "x-none", Claim: "none"}, {Header: "x-dot", Claim: "a.b"},
	}})
	a := newAuthenticator(t, Config{})
	forged := func(r *http.Request) *http.Request {
		for _, name := range []string{"X-Claims", "X-Sub", "X-Level", "X-Role", "X-List", "X-Evil", "X-None", "X-Dot"} {
			r.Header.Add(name, "forged")
			r.Header.Add(name, "twice")
		}
		return r
	}
	r := forged(bearer())
	if _, err := a.Authenticate(t.Context(), rules, r); err != nil || len(r.Header) != 0 {
		t.Errorf("without a token: %v, %v", r.Header, err)
	}
	payload := claim(map[string]any{"level": 3, "realm": map[string]any{"role": "buyer"}, "list": []int{1}, "evil": "a\r\nX-Admin: 1", "a.b": true})
	token := s.sign(t, payload)
	r = forged(bearer(token))
	if _, err := a.Authenticate(t.Context(), rules, r); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"X-Claims": strings.Split(token, ".")[1], "X-Sub": "ann", "X-Level": "3", "X-Role": "buyer",
		"X-List": base64.RawURLEncoding.EncodeToString([]byte("[1]")), "X-Evil": "", "X-None": "", "X-Dot": "true"}
	for name, value := range want {
		if got := strings.Join(r.Header[name], ","); got != value {
			t.Errorf("%s = %q, want %q", name, got, value)
		}
	}
}

func FuzzAuthenticate(f *testing.F) {
	s := newSigner(f, "a")
	rules := apply(policy.JWTRule{Issuer: issuer, JWKS: jwks(f, s)})
	a := New(Config{Now: func() time.Time { return noon }})
	good := s.sign(f, claim(nil))
	f.Add(good)
	f.Add(unsigned(`{"alg":"ES256","kid":"a","crit":["b64"],"b64":false}`, `{"iss":"https://id.example","exp":1e99}`))
	f.Fuzz(func(t *testing.T, token string) {
		r := bearer()
		r.Header.Set("Authorization", "Bearer "+token)
		got, err := a.Authenticate(context.Background(), rules, r)
		if err == nil && !got.Token.IsZero() && strings.TrimSpace(token) != good {
			t.Fatalf("accepted %q", token)
		}
	})
}
