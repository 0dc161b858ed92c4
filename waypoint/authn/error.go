package authn

import (
	"net/http"
	"strings"
)

// Error says why a request is refused.
type Error struct {
	// Status is 401, or 503 if the issuer's keys are not to be had: the token may well be good.
	Status int
	// Challenge is the WWW-Authenticate header (RFC 6750, section 3), "" for none.
	Challenge string
	// Reason is a sentence for people. It names no part of the token but its issuer.
	Reason string
}

func (e *Error) Error() string { return e.Reason }

func invalid(reason string) *Error {
	return &Error{
		Status: http.StatusUnauthorized, Reason: reason,
		Challenge: `Bearer error="invalid_token", error_description="` + described(reason) + `"`,
	}
}

func keyless(reason string) *Error {
	return &Error{Status: http.StatusServiceUnavailable, Reason: reason}
}

// described leaves only what an error_description may hold.
func described(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '\''
		}
		return r
	}, s[:min(len(s), 256)])
}
