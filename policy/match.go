package policy

import "net/netip"

// These loops are written out because a closure over the connection would allocate on some paths.

func anyPrincipal(patterns []pattern, c Conn) bool {
	for i := range patterns {
		if patterns[i].matchesPrincipal(c.Src) {
			return true
		}
	}
	return false
}

func anyNamespace(patterns []pattern, c Conn) bool {
	for i := range patterns {
		if patterns[i].matches(c.Src.Namespace()) {
			return true
		}
	}
	return false
}

func anyAccount(accounts []account, c Conn) bool {
	for i := range accounts {
		if accounts[i].namespace.matches(c.Src.Namespace()) && accounts[i].name.matches(c.Src.ServiceAccount()) {
			return true
		}
	}
	return false
}

func anyBlock(blocks []netip.Prefix, c Conn) bool {
	for _, b := range blocks {
		if b.Contains(c.SrcAddr) {
			return true
		}
	}
	return false
}

func anyText(patterns []pattern, text string) bool {
	for i := range patterns {
		if patterns[i].matches(text) {
			return true
		}
	}
	return false
}

func anyToken(patterns []pattern, t *Token) bool {
	parts := [...]string{t.Issuer, "/", t.Subject}
	for i := range patterns {
		if patterns[i].matchesParts(parts[:]) {
			return true
		}
	}
	return false
}
