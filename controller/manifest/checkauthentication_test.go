package manifest

import (
	"strings"
	"testing"
)

// TestKeySetsAreReadWhereTheyStand: a key set that no waypoint could use is refused with the policy that has it. The API
// server cannot tell, so these are not in errors.txtar.
func TestKeySetsAreReadWhereTheyStand(t *testing.T) {
	const head = "apiVersion: warren.dev/v1alpha1\nkind: RequestAuthentication\nmetadata: {name: p, namespace: a}\nspec: {jwtRules: [{issuer: a, jwks: '"
	for jwks, want := range map[string]string{
		`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`: "",
		`keys`:        "spec.jwtRules[0].jwks: unusable JWK set: not JSON",
		`{"keys":[]}`: "spec.jwtRules[0].jwks: unusable JWK set: it has no keys",
		`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`:                              "no key can be used: keys[0]: not a public key",
		`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`:              "no key can be used: keys[0]",
		`{"keys":[{"kty":"RSA","e":"AQAB","n":"AQAB","use":"sig"}]}`:           "bits, want 2048 to 8192",
		`{"keys":[` + strings.Repeat(" ", maxKeySetBytes) + `]}`:               "larger than 131072 bytes: serve it, and write jwksUri",
		strings.TrimSuffix(strings.Repeat(`{"keys":[{"a":`, 3), `:`) + `}]}]}`: "not JSON",
	} {
		objects, _, err := Parse("in.yaml", []byte(head+jwks+"'}]}\n"))
		switch {
		case want == "" && (err != nil || len(objects) != 1):
			t.Errorf("a good set: %v", err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "in.yaml:4: RequestAuthentication a/p: ")):
			t.Errorf("err = %.200v\nwant %q", err, want)
		}
	}
}
