package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
)

// condition is a compiled Condition. What sources and operations ask as well is asked as they do.
type condition struct {
	key              string
	from             *source
	to               *operation
	header           string   // canonical
	claim            []string // the path to it
	audiences        bool
	presenter        bool
	values, excluded []pattern
}

const (
	headersKey = "request.headers"
	claimsKey  = "request.auth.claims"

	maxClaimDepth = 8
)

// compileCondition's errors begin with the field's path.
func compileCondition(w Condition) (condition, error) {
	c := condition{key: w.Key}
	if w.Values == nil && w.NotValues == nil {
		return c, errors.New(": it has neither values nor notValues, so it asks nothing: fill one of them")
	}
	var err error
	switch w.Key {
	case "source.ip", "source.namespace", "source.principal", "request.auth.principal":
		c.from, err = conditionSource(w)
	case "destination.port":
		c.to, err = conditionPorts(w)
	default:
		if err = c.parseKey(w.Key); err == nil {
			err = c.compileValues(w)
		}
	}
	return c, err
}

func conditionSource(w Condition) (*source, error) {
	var f Source
	var err error
	switch w.Key {
	case "source.ip":
		f.IPBlocks, err = compileList(".values", w.Values, parseAddressOrBlock)
		if err == nil {
			f.NotIPBlocks, err = compileList(".notValues", w.NotValues, parseAddressOrBlock)
		}
	case "source.namespace":
		f.Namespaces, f.NotNamespaces = w.Values, w.NotValues
	case "source.principal":
		f.Principals, f.NotPrincipals = w.Values, w.NotValues
	case "request.auth.principal":
		f.RequestPrincipals, f.NotRequestPrincipals = w.Values, w.NotValues
	}
	if err != nil {
		return nil, err
	}
	s, err := compileSource(f, "")
	return &s, err
}

func conditionPorts(w Condition) (*operation, error) {
	var o Operation
	var err error
	if o.Ports, err = compileList(".values", w.Values, parsePort); err != nil {
		return nil, err
	}
	if o.NotPorts, err = compileList(".notValues", w.NotValues, parsePort); err != nil {
		return nil, err
	}
	compiled, err := compileOperation(o)
	return &compiled, err
}

func (c *condition) compileValues(w Condition) error {
	var err error
	if c.values, err = compileList(".values", w.Values, parseText); err != nil {
		return err
	}
	c.excluded, err = compileList(".notValues", w.NotValues, parseText)
	return err
}

func (c *condition) parseKey(key string) error {
	switch {
	case key == "request.auth.audiences":
		c.audiences = true
		return nil
	case key == "request.auth.presenter":
		c.presenter = true
		return nil
	case strings.HasPrefix(key, headersKey+"["):
		names, err := parseBrackets(key[len(headersKey):], 1)
		if err != nil {
			return fmt.Errorf(".key: %q: %w", key, err)
		}
		c.header, err = parseHeaderName(names[0])
		if err != nil {
			return fmt.Errorf(".key: %q: %w", key, err)
		}
		return nil
	case strings.HasPrefix(key, claimsKey+"["):
		var err error
		if c.claim, err = parseBrackets(key[len(claimsKey):], maxClaimDepth); err != nil {
			return fmt.Errorf(".key: %q: %w", key, err)
		}
		return nil
	}
	return fmt.Errorf(".key: %q is not known: it is one of request.headers[<name>], request.auth.claims[<name>], "+
		"request.auth.principal, request.auth.audiences, request.auth.presenter, source.ip, source.namespace, "+
		"source.principal and destination.port", key)
}

// parseBrackets parses "[a][b]" into at most a number of names.
func parseBrackets(s string, most int) ([]string, error) {
	var names []string
	for s != "" {
		name, rest, ok := strings.Cut(strings.TrimPrefix(s, "["), "]")
		if !ok || s[0] != '[' || name == "" || strings.Contains(name, "[") || len(s) > maxValueBytes {
			return nil, errors.New("names stand in brackets, [<name>]")
		}
		names, s = append(names, name), rest
	}
	if len(names) > most {
		return nil, fmt.Errorf("%d names in brackets, more than %d", len(names), most)
	}
	return names, nil
}

// parseHeaderName refuses headers that no request has once it was read: a DENY on one would protect nobody.
func parseHeaderName(name string) (string, error) {
	if strings.Trim(name, headerBytes) != "" {
		return "", fmt.Errorf("%q is not a header's name", name)
	}
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	switch canonical {
	case "Host":
		return "", errors.New("a request's host is asked for by hosts, in to.operation")
	case "Transfer-Encoding", "Trailer", "Connection", "Te", "Upgrade", "Content-Length", "Keep-Alive":
		return "", errors.New("the header belongs to one connection, not to the request")
	}
	return canonical, nil
}

func parseAddressOrBlock(value string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(value)
	if err != nil {
		return p, errors.New("not an address or a CIDR block")
	}
	return parseBlock(p)
}

func parsePort(value string) (uint16, error) {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n == 0 {
		return 0, errors.New("not a port: 1 to 65535")
	}
	return uint16(n), nil
}

func (c *condition) mismatches(who *subject, action Action) bool {
	switch {
	case c.from != nil:
		return c.from.mismatch(who, action) != ""
	case c.to != nil:
		return c.to.mismatch(who, action) != ""
	case who.request == nil:
		return action == Allow
	case c.header != "":
		return !c.matchesHeader(who.request.Header[c.header], action)
	}
	return !c.matchesToken(&who.request.Token, action)
}
