package hbone

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestParseAuthority(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // "" for an error
		err  error
	}{
		{"1.2.3.4:80", "1.2.3.4:80", nil},
		{"[::1]:80", "[::1]:80", nil},
		{"[fd00::7]:65535", "[fd00::7]:65535", nil},
		{"[FD00:0:0::7]:1", "[fd00::7]:1", nil},
		{"web.shop.svc.cluster.local:80", "", ErrHostname},
		{"localhost:80", "", ErrHostname},
		{"a-1.b:80", "", ErrHostname},

		{"", "", ErrAuthority},
		{"1.2.3.4", "", ErrAuthority},
		{"1.2.3.4:", "", ErrAuthority},
		{":80", "", ErrAuthority},
		{"1.2.3.4:0", "", ErrAuthority},
		{"1.2.3.4:080", "", ErrAuthority},
		{"1.2.3.4:65536", "", ErrAuthority},
		{"1.2.3.4:+80", "", ErrAuthority},
		{"1.2.3.4:80 ", "", ErrAuthority},
		{" 1.2.3.4:80", "", ErrAuthority},
		{"1.2.3.4:80:80", "", ErrAuthority},
		{"01.2.3.4:80", "", ErrAuthority},
		{"1.2.3:80", "", ErrAuthority},
		{"1.2.3.4.5:80", "", ErrAuthority},
		{"0x7f.1:80", "", ErrAuthority},
		{"2130706433:80", "", ErrAuthority},
		{"a.0x7f:80", "", ErrAuthority},
		{"[1.2.3.4]:80", "", ErrAuthority},
		{"::1:80", "", ErrAuthority},
		{"[::1:80", "", ErrAuthority},
		{"::1]:80", "", ErrAuthority},
		{"[::1]80", "", ErrAuthority},
		{"[fe80::1%eth0]:80", "", ErrAuthority},
		{"[fe80::1%25eth0]:80", "", ErrAuthority},
		{"[::ffff:1.2.3.4]:80", "", ErrAuthority},
		{"[::ffff:102:304]:80", "", ErrAuthority},
		{"user@1.2.3.4:80", "", ErrAuthority},
		{"1.2.3.4:80/x", "", ErrAuthority},
		{"1.2.3.4:80\x00", "", ErrAuthority},
		{"a\x00b:80", "", ErrAuthority},
		{"web:65536", "", ErrAuthority},
		{"web..shop:80", "", ErrAuthority},
		{"-web:80", "", ErrAuthority},
		{"wéb:80", "", ErrAuthority},
		{strings.Repeat("a", 64) + ":80", "", ErrAuthority},
		{strings.Repeat("a.", 130) + "a:80", "", ErrAuthority},
	} {
		got, err := ParseAuthority(c.in)
		if c.want != "" {
			if err != nil || got != netip.MustParseAddrPort(c.want) {
				t.Errorf("%q: %v, %v; want %s", c.in, got, err, c.want)
			}
			continue
		}
		if !errors.Is(err, c.err) || got.IsValid() {
			t.Errorf("%q: %v, %v; want %v", c.in, got, err, c.err)
		}
	}
}
