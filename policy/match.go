package policy

import (
	"net/netip"
	"slices"
)

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

// mismatchPort returns the name of the field that does not match port, or "". Port 0 means that it is not known.
func mismatchPort(o *Operation, port uint16, action Action) string {
	switch {
	case len(o.Ports) > 0 && !slices.Contains(o.Ports, port):
		return "ports"
	case len(o.NotPorts) > 0 && port == 0 && action == Allow:
		return "notPorts"
	case slices.Contains(o.NotPorts, port):
		return "notPorts"
	}
	return ""
}
