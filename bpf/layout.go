package bpf

import (
	"encoding/binary"
	"net/netip"
)

// words is the one place where an address becomes the kernel's form: 16 bytes in network order, IPv4 mapped.
func words(a netip.Addr) [4]uint32 {
	b := a.As16()
	var w [4]uint32
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// addrOf is the inverse of words.
func addrOf(w [4]uint32) netip.Addr {
	var b [16]byte
	for i := range w {
		binary.NativeEndian.PutUint32(b[4*i:], w[i])
	}
	return netip.AddrFrom16(b).Unmap()
}

func endOf(ap netip.AddrPort) captureAddr {
	return captureAddr{Ip: words(ap.Addr()), Port: ap.Port()}
}

func addrPortOf(a captureAddr) netip.AddrPort {
	return netip.AddrPortFrom(addrOf(a.Ip), a.Port)
}
