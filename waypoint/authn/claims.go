package authn

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"time"

	josejson "github.com/go-jose/go-jose/v4/json"

	"github.com/warren-mesh/warren/policy"
)

const leeway = 60 * time.Second

// claims are a token's.
type claims struct {
	issuer, subject string
	audiences       []string
	presenter       string
	all             map[string]any
}

// readClaims refuses what two readers could read differently, such as a claim that is there twice.
func readClaims(payload []byte) (*claims, error) {
	var strict map[string]any
	if err := josejson.Unmarshal(payload, &strict); err != nil || strict == nil {
		return nil, errors.New("the token's claims are not one JSON object, or one is there twice")
	}
	c := &claims{}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if err := d.Decode(&c.all); err != nil {
		return nil, errors.New("the token's claims are not one JSON object")
	}
	var ok [4]bool
	c.issuer, ok[0] = textClaim(c.all, "iss")
	c.subject, ok[1] = textClaim(c.all, "sub")
	c.presenter, ok[2] = textClaim(c.all, "azp")
	c.audiences, ok[3] = audienceClaim(c.all["aud"])
	if slices.Contains(ok[:], false) {
		return nil, errors.New("the token's iss, sub, azp or aud is not text")
	}
	return c, nil
}

func textClaim(all map[string]any, name string) (string, bool) {
	value, there := all[name]
	text, ok := value.(string)
	return text, ok || !there
}

func audienceClaim(value any) ([]string, bool) {
	switch v := value.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		var out []string
		for _, member := range v {
			text, ok := member.(string)
			if !ok {
				return nil, false
			}
			out = append(out, text)
		}
		return out, true
	}
	return nil, false
}

func (c *claims) token() policy.Token {
	return policy.Token{Issuer: c.issuer, Subject: c.subject, Audiences: c.audiences, Presenter: c.presenter, Claims: c.all}
}

// check holds a token, whose signature fits, against a rule and the clock.
func (c *claims) check(rule *policy.JWTRule, now time.Time) *Error {
	if len(rule.Audiences) > 0 && !slices.ContainsFunc(c.audiences, func(a string) bool { return slices.Contains(rule.Audiences, a) }) {
		return invalid("the token is for another audience")
	}
	expiry, ok := dateClaim(c.all, "exp")
	if !ok || expiry.IsZero() {
		return invalid("the token does not say when it expires")
	}
	if !now.Before(expiry.Add(leeway)) {
		return invalid("the token has expired")
	}
	for _, name := range []string{"nbf", "iat"} {
		date, ok := dateClaim(c.all, name)
		if !ok {
			return invalid("the token's " + name + " is not a date")
		}
		if date.After(now.Add(leeway)) {
			return invalid("the token is not valid yet: " + name + " is in the future")
		}
	}
	return nil
}

// dateClaim reads seconds since 1970, which may have a fraction. A claim that is not there is the zero time.
func dateClaim(all map[string]any, name string) (time.Time, bool) {
	value, there := all[name]
	if !there {
		return time.Time{}, true
	}
	number, ok := value.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := number.Float64()
	if err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, false
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)), true
}
