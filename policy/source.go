package policy

import (
	"errors"
	"net/netip"
)

// source is a compiled Source.
type source struct {
	principals, notPrincipals               []pattern
	namespaces, notNamespaces               []pattern
	accounts, notAccounts                   []account
	blocks, notBlocks                       []netip.Prefix
	requestPrincipals, notRequestPrincipals []pattern
	asksIdentity, asksNoAddress             bool // has a negative identity field, a negative address field
	asksToken                               bool
}

func compileSource(f Source, namespace string) (source, error) {
	var s source
	var errs [10]error
	parse := func(value string) (account, error) { return parseAccount(value, namespace) }
	s.principals, errs[0] = compileList(".principals", f.Principals, parsePrincipal)
	s.notPrincipals, errs[1] = compileList(".notPrincipals", f.NotPrincipals, parsePrincipal)
	s.namespaces, errs[2] = compileList(".namespaces", f.Namespaces, parseNamespace)
	s.notNamespaces, errs[3] = compileList(".notNamespaces", f.NotNamespaces, parseNamespace)
	s.accounts, errs[4] = compileList(".serviceAccounts", f.ServiceAccounts, parse)
	s.notAccounts, errs[5] = compileList(".notServiceAccounts", f.NotServiceAccounts, parse)
	s.blocks, errs[6] = compileList(".ipBlocks", f.IPBlocks, parseBlock)
	s.notBlocks, errs[7] = compileList(".notIpBlocks", f.NotIPBlocks, parseBlock)
	s.requestPrincipals, errs[8] = compileList(".requestPrincipals", f.RequestPrincipals, parseText)
	s.notRequestPrincipals, errs[9] = compileList(".notRequestPrincipals", f.NotRequestPrincipals, parseText)
	for _, err := range errs {
		if err != nil {
			return s, err
		}
	}
	s.asksIdentity = len(s.notPrincipals)+len(s.notNamespaces)+len(s.notAccounts) > 0
	s.asksNoAddress = len(s.notBlocks) > 0
	s.asksToken = f.asksRequests()
	if !s.asksIdentity && !s.asksNoAddress && !s.asksToken &&
		len(s.principals)+len(s.namespaces)+len(s.accounts)+len(s.blocks) == 0 {
		return s, errors.New(": no field is set, which would match everybody: set one, or leave out from")
	}
	return s, nil
}

// mismatch returns the name of the first field that does not match, or "" if all do.
func (s *source) mismatch(who *subject, action Action) string {
	if who.Src.IsZero() {
		if field := s.mismatchPlaintext(action); field != "" {
			return field
		}
	} else if field := s.mismatchIdentity(who.Conn); field != "" {
		return field
	}
	switch {
	case len(s.blocks) > 0 && !anyBlock(s.blocks, who.Conn):
		return "ipBlocks"
	case s.asksNoAddress && !who.SrcAddr.IsValid() && action == Allow:
		return "notIpBlocks"
	case anyBlock(s.notBlocks, who.Conn):
		return "notIpBlocks"
	case s.asksToken:
		return s.mismatchToken(who, action)
	}
	return ""
}

// mismatchPlaintext is about a peer without an identity; see "Absent facts" in the package comment.
func (s *source) mismatchPlaintext(action Action) string {
	switch {
	case len(s.principals) > 0:
		return "principals"
	case len(s.namespaces) > 0:
		return "namespaces"
	case len(s.accounts) > 0:
		return "serviceAccounts"
	case s.asksIdentity && action == Allow:
		return "identity"
	}
	return ""
}

func (s *source) mismatchIdentity(c Conn) string {
	switch {
	case len(s.principals) > 0 && !anyPrincipal(s.principals, c):
		return "principals"
	case anyPrincipal(s.notPrincipals, c):
		return "notPrincipals"
	case len(s.namespaces) > 0 && !anyNamespace(s.namespaces, c):
		return "namespaces"
	case anyNamespace(s.notNamespaces, c):
		return "notNamespaces"
	case len(s.accounts) > 0 && !anyAccount(s.accounts, c):
		return "serviceAccounts"
	case anyAccount(s.notAccounts, c):
		return "notServiceAccounts"
	}
	return ""
}

func (s *source) mismatchToken(who *subject, action Action) string {
	const positive, negative = "requestPrincipals", "notRequestPrincipals"
	if who.request == nil {
		return unread(action, positive)
	}
	t := &who.request.Token
	absent := t.Issuer == "" || t.Subject == ""
	switch {
	case len(s.requestPrincipals) > 0 && (absent || !anyToken(s.requestPrincipals, t)):
		return positive
	case len(s.notRequestPrincipals) > 0 && absent && action == Allow:
		return negative
	case !absent && anyToken(s.notRequestPrincipals, t):
		return negative
	}
	return ""
}

// unread is about what is asked of a request that nobody has read: field in an ALLOW policy, which does not match, and
// nothing in any other.
func unread(action Action, field string) string {
	if action == Allow {
		return field
	}
	return ""
}
