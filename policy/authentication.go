package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Authentication is one RequestAuthentication: whose tokens are taken, and for what.
type Authentication struct {
	Namespace string
	Name      string
	// Targets are as Policy.Targets.
	Targets []string
	// Workloads are the UIDs of those that it selects.
	Workloads []string
	Rules     []JWTRule
}

// FullName is "<namespace>/<name>".
func (a *Authentication) FullName() string { return a.Namespace + "/" + a.Name }

// JWTRule says how tokens of one issuer are found, verified and handed on.
type JWTRule struct {
	Issuer string
	// Audiences: a token must be for one of them; none: it may be for anybody.
	Audiences []string
	// JWKS is a JWK set in JSON, JWKSURI where one is. Exactly one of them is set.
	JWKS    string
	JWKSURI string
	// Timeout is for fetching the set, 0 for the default.
	Timeout time.Duration
	// Where tokens are looked for; if there is nothing, in `Authorization: Bearer`.
	FromHeaders []TokenHeader
	FromParams  []string
	FromCookies []string
	// ForwardOriginalToken leaves the token in the request.
	ForwardOriginalToken bool
	// OutputPayloadToHeader is the header in which the claims are handed on, "" for none.
	OutputPayloadToHeader string
	ClaimsToHeaders       []ClaimToHeader
}

// TokenHeader is a header with a token behind a prefix.
type TokenHeader struct{ Name, Prefix string }

// ClaimToHeader hands one claim on in a header.
type ClaimToHeader struct{ Header, Claim string }

// AuthenticationSet is every RequestAuthentication, by what it is for. It is immutable. A nil one is empty.
type AuthenticationSet struct {
	all        []*Authentication
	byTarget   map[string][]*Authentication
	byWorkload map[string][]*Authentication
}

const (
	maxJWTRules = 32
	maxSources  = 16 // headers, parameters, cookies and outputs of a rule, each
)

// NewAuthenticationSet indexes RequestAuthentications. Callers must not change them afterwards.
// Returns an error that wraps ErrInvalid and names the object and the field.
func NewAuthenticationSet(all []*Authentication) (*AuthenticationSet, error) {
	s := &AuthenticationSet{byTarget: make(map[string][]*Authentication), byWorkload: make(map[string][]*Authentication)}
	s.all = slices.SortedFunc(slices.Values(all), func(a, b *Authentication) int {
		return cmp.Compare(a.FullName(), b.FullName())
	})
	for i, a := range s.all {
		if err := ValidateAuthentication(a); err != nil {
			return nil, err
		}
		if i > 0 && s.all[i-1].FullName() == a.FullName() {
			return nil, fmt.Errorf("%w: RequestAuthentication %s is there twice", ErrInvalid, a.FullName())
		}
		for _, t := range a.Targets {
			s.byTarget[t] = append(s.byTarget[t], a)
		}
		for _, uid := range a.Workloads {
			s.byWorkload[uid] = append(s.byWorkload[uid], a)
		}
	}
	return s, nil
}

// All returns every RequestAuthentication, sorted by full name.
func (s *AuthenticationSet) All() []*Authentication {
	if s == nil {
		return nil
	}
	return s.all
}

// For returns those of a target and of a workload ("" for none), each once. It allocates only if there are several.
func (s *AuthenticationSet) For(targets []string, workload string) []*Authentication {
	if s == nil {
		return nil
	}
	found := s.byWorkload[workload]
	found = found[:len(found):len(found)]
	for _, t := range targets {
		more := s.byTarget[t]
		if len(found) == 0 {
			found = more[:len(more):len(more)]
			continue
		}
		for _, a := range more {
			if !slices.Contains(found, a) {
				found = append(found, a)
			}
		}
	}
	return found
}

// ValidateAuthentication returns the error that NewAuthenticationSet would return for a alone. Whether key sets can be
// read is for whoever reads them.
func ValidateAuthentication(a *Authentication) error {
	if err := checkTargets(a.Targets); err != nil {
		return fmt.Errorf("%w: RequestAuthentication %s: %w", ErrInvalid, a.FullName(), err)
	}
	if len(a.Rules) > maxJWTRules {
		return fmt.Errorf("%w: RequestAuthentication %s: %d rules, more than %d", ErrInvalid, a.FullName(), len(a.Rules), maxJWTRules)
	}
	for i := range a.Rules {
		if err := checkJWTRule(&a.Rules[i]); err != nil {
			return fmt.Errorf("%w: RequestAuthentication %s: jwtRules[%d]%w", ErrInvalid, a.FullName(), i, err)
		}
	}
	return nil
}

func checkJWTRule(r *JWTRule) error {
	switch {
	case r.Issuer == "" || len(r.Issuer) > maxValueBytes:
		return fmt.Errorf(".issuer: %d bytes, want 1 to %d", len(r.Issuer), maxValueBytes)
	case (r.JWKS == "") == (r.JWKSURI == ""):
		return errors.New(": exactly one of jwks and jwksUri is set")
	case len(r.Audiences) > maxValues:
		return fmt.Errorf(".audiences: %d values, more than %d", len(r.Audiences), maxValues)
	}
	for field, n := range map[string]int{".fromHeaders": len(r.FromHeaders), ".fromParams": len(r.FromParams),
		".fromCookies": len(r.FromCookies), ".outputClaimToHeaders": len(r.ClaimsToHeaders)} {
		if n > maxSources {
			return fmt.Errorf("%s: %d entries, more than %d", field, n, maxSources)
		}
	}
	return nil
}
