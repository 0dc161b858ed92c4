package keyset

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func jwk(t testing.TB, key any, id, algorithm, use string) string {
	t.Helper()
	raw, err := json.Marshal(jose.JSONWebKey{Key: key, KeyID: id, Algorithm: algorithm, Use: use})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func setOf(keys ...string) []byte { return []byte(`{"keys":[` + strings.Join(keys, ",") + `]}`) }

func TestOnlyPublicKeysForSignaturesAreTaken(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	small := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(3), 1022), E: 65537}
	ed, private, _ := ed25519.GenerateKey(rand.Reader)
	good := jwk(t, &ec.PublicKey, "good", "", "")
	tests := map[string]string{ // by the reason why they are skipped
		"not a public key":          jwk(t, []byte("a secret that both sides know......"), "a", "HS256", "sig"),
		"asymmetric algorithm":      jwk(t, private, "b", "", ""),
		"its use is":                jwk(t, ed, "c", "", "enc"),
		"RSA key of 1024 bits":      jwk(t, small, "d", "", ""),
		"does not go with its type": jwk(t, &ec.PublicKey, "e", "RS256", ""),
		"longer than 1024":          jwk(t, ed, strings.Repeat("f", 1025), "", ""),
		"unsupported":               `{"kty":"OKP","crv":"X25519","x":"AAAA"}`,
	}
	for why, key := range tests {
		set, err := Parse(setOf(key, good))
		if err != nil || set.Len() != 1 || !set.Has("good") {
			t.Errorf("%s: Parse of it and a good key = %v, %v", why, set, err)
		}
		if _, err = Parse(setOf(key)); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), why) {
			t.Errorf("Parse of it alone = %v, want %q", err, why)
		}
	}
}

func TestSetsThatAreNone(t *testing.T) {
	many := make([]string, maxKeys+1)
	for i := range many {
		many[i] = `{}`
	}
	for why, raw := range map[string]string{
		"not JSON": `{"keys":`, "no keys": `{}`, "129 keys": string(setOf(many...)), "more than 1048576 bytes": strings.Repeat(" ", MaxBytes+1),
		"no key can be used": `{"keys":[{"kty":"RSA"}, null, 7]}`,
	} {
		if _, err := Parse([]byte(raw)); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), why) {
			t.Errorf("Parse = %v, want %q", err, why)
		}
	}
}

func TestKeysByIDAndAlgorithm(t *testing.T) {
	a, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	b, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	r, _ := rsa.GenerateKey(rand.Reader, 2048)
	set, err := Parse(setOf(jwk(t, &a.PublicKey, "a", "", "sig"), jwk(t, &b.PublicKey, "", "", ""), jwk(t, &r.PublicKey, "r", "PS256", "")))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ id, algorithm, want string }{
		{"a", "ES256", `["a"]`}, {"", "ES256", `["a"]`}, {"x", "ES256", `[]`},
		{"a", "ES384", `[""]`}, {"x", "ES384", `[""]`}, // the key without an id may have signed any token
		{"r", "PS256", `["r"]`}, {"r", "RS256", `[]`}, {"", "none", `[]`}, {"", "HS256", `[]`},
	} {
		var ids []string
		for _, k := range set.Keys(tt.id, tt.algorithm) {
			ids = append(ids, k.ID)
		}
		if got := fmt.Sprintf("%q", ids); got != tt.want {
			t.Errorf("Keys(%q, %s) = %s, want %s", tt.id, tt.algorithm, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","x5c":["AA"]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		set, err := Parse(raw)
		if (err == nil) != (set != nil && set.Len() > 0) {
			t.Fatalf("Parse = %v, %v", set, err)
		}
	})
}
