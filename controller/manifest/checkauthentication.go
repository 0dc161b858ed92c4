package manifest

import (
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/waypoint/keyset"
)

const (
	maxJWTRules    = 32
	maxJWTPlaces   = 16
	maxAudiences   = 64
	maxIssuer      = 512
	maxKeySetBytes = 128 << 10
	maxKeySetURI   = 2048
)

func checkRequestAuthentication(d *decoder, spec *v1alpha1.RequestAuthenticationSpec) error {
	if err := checkSelector(d, spec.Selector); err != nil {
		return err
	}
	if err := checkPolicyTargets(d, spec.Selector != nil, spec.TargetRefs); err != nil {
		return err
	}
	if len(spec.JWTRules) > maxJWTRules {
		return d.at("spec.jwtRules", "more than %d rules", maxJWTRules)
	}
	for i := range spec.JWTRules {
		if err := checkJWTRule(d, fmt.Sprintf("spec.jwtRules[%d]", i), &spec.JWTRules[i]); err != nil {
			return err
		}
	}
	return nil
}

func checkJWTRule(d *decoder, path string, r *v1alpha1.JWTRule) error {
	if r.Issuer == "" || len(r.Issuer) > maxIssuer {
		return d.at(path+".issuer", "want 1 to %d characters, as tokens have it in iss", maxIssuer)
	}
	for _, check := range []func(*decoder, string, *v1alpha1.JWTRule) error{checkKeySet, checkAudiences, checkPlaces, checkOutputs} {
		if err := check(d, path, r); err != nil {
			return err
		}
	}
	return checkTimeout(d, path+".timeout", r.Timeout)
}

func checkKeySet(d *decoder, path string, r *v1alpha1.JWTRule) error {
	switch {
	case r.JWKS == "" && r.JWKSURI == "":
		return d.at(path, "has neither jwks nor jwksUri: without keys no token can be verified")
	case r.JWKS != "" && r.JWKSURI != "":
		return d.at(path, "has both jwks and jwksUri: leave one out")
	case len(r.JWKS) > maxKeySetBytes:
		return d.at(path+".jwks", "larger than %d bytes: serve it, and write jwksUri", maxKeySetBytes)
	case r.JWKSURI != "":
		return checkKeySetURI(d, path+".jwksUri", r.JWKSURI)
	}
	if _, err := keyset.Parse([]byte(r.JWKS)); err != nil {
		return d.at(path+".jwks", "%v", err)
	}
	return nil
}

func checkKeySetURI(d *decoder, path, uri string) error {
	u, err := url.Parse(uri)
	switch {
	case err != nil || len(uri) > maxKeySetURI || strings.ContainsAny(uri, " \t\r\n"):
		return d.at(path, "want a URL of at most %d characters, got %.80q", maxKeySetURI, uri)
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return d.at(path, "want http:// or https:// and a host, got %.80q", uri)
	case u.User != nil || u.Fragment != "":
		return d.at(path, "must have no user and no fragment")
	}
	return nil
}

func checkAudiences(d *decoder, path string, r *v1alpha1.JWTRule) error {
	return checkNames(d, path+".audiences", r.Audiences, maxAudiences)
}

// checkNames refuses a list that is there and empty, as everywhere in policies.
func checkNames(d *decoder, path string, names []string, most int) error {
	if names != nil && len(names) == 0 || len(names) > most {
		return d.at(path, "want 1 to %d entries, got %d: leave the field out for none", most, len(names))
	}
	for i, name := range names {
		if name == "" || len(name) > maxString {
			return d.at(fmt.Sprintf("%s[%d]", path, i), "want 1 to %d characters", maxString)
		}
	}
	return nil
}

func checkPlaces(d *decoder, path string, r *v1alpha1.JWTRule) error {
	if r.FromHeaders != nil && len(r.FromHeaders) == 0 || len(r.FromHeaders) > maxJWTPlaces {
		return d.at(path+".fromHeaders", "want 1 to %d entries, got %d: leave the field out for none", maxJWTPlaces, len(r.FromHeaders))
	}
	for i, h := range r.FromHeaders {
		at := fmt.Sprintf("%s.fromHeaders[%d]", path, i)
		if err := checkHeaderName(d, at+".name", h.Name); err != nil {
			return err
		}
		if len(h.Prefix) > maxString || !isFieldValue(strings.TrimRight(h.Prefix, " ")) {
			return d.at(at+".prefix", "want what may stand in a header, at most %d characters", maxString)
		}
	}
	if err := checkNames(d, path+".fromParams", r.FromParams, maxJWTPlaces); err != nil {
		return err
	}
	if err := checkNames(d, path+".fromCookies", r.FromCookies, maxJWTPlaces); err != nil {
		return err
	}
	if i := slices.IndexFunc(r.FromCookies, func(c string) bool { return !isToken(c) }); i >= 0 {
		return d.at(fmt.Sprintf("%s.fromCookies[%d]", path, i), "want a cookie's name, got %q", r.FromCookies[i])
	}
	return nil
}

func checkOutputs(d *decoder, path string, r *v1alpha1.JWTRule) error {
	if r.OutputPayloadToHeader != "" {
		if err := checkHeaderName(d, path+".outputPayloadToHeader", r.OutputPayloadToHeader); err != nil {
			return err
		}
	}
	if r.OutputClaimToHeaders != nil && len(r.OutputClaimToHeaders) == 0 || len(r.OutputClaimToHeaders) > maxJWTPlaces {
		return d.at(path+".outputClaimToHeaders", "want 1 to %d entries, got %d: leave the field out for none", maxJWTPlaces,
			len(r.OutputClaimToHeaders))
	}
	for i, c := range r.OutputClaimToHeaders {
		at := fmt.Sprintf("%s.outputClaimToHeaders[%d]", path, i)
		if err := checkHeaderName(d, at+".header", c.Header); err != nil {
			return err
		}
		if c.Claim == "" || len(c.Claim) > maxString {
			return d.at(at+".claim", "want 1 to %d characters", maxString)
		}
	}
	return nil
}

// checkHeaderName refuses headers that frame a request or say whom it is for.
func checkHeaderName(d *decoder, path, name string) error {
	switch {
	case len(name) > maxString || !isToken(name):
		return d.at(path, "want a header's name, got %q", name)
	case isFraming(name) || textproto.CanonicalMIMEHeaderKey(name) == "Host":
		return d.at(path, "%s belongs to the connection or says whom the request is for: take another header", name)
	}
	return nil
}
