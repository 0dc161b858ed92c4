package proxy

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestOnePathHasOneForm(t *testing.T) {
	for _, row := range []struct{ in, want string }{
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"/a/b/", "/a/b/"},
		{"//", "/"},
		{"//a///b//", "/a/b/"},
		{"/./a", "/a"},
		{"/a/.", "/a/"},
		{"/a/./", "/a/"},
		{"/a/..", "/"},
		{"/a/../b", "/b"},
		{"/a//../b", "/b"},
		{"/a/b/..", "/a/"},
		{"/a/%2e%2E/b", "/b"},
		{"/%61dmin", "/admin"},
		{"/a%7eb", "/a~b"},
		{"/a%c3%a9", "/a%C3%A9"},
		{"/aé", "/a%C3%A9"},
		{"/a%25b", "/a%25b"},
		{"/a%252e%252e/b", "/a%252e%252e/b"},
		{"/a%3fb", "/a%3Fb"},
		{"/a;x=1/b", "/a;x=1/b"},
		{"/...", "/..."},
		{"/.a/..b/c..", "/.a/..b/c.."},
		{`/a"b<c>|{}^[]` + "`", "/a%22b%3Cc%3E%7C%7B%7D%5E%5B%5D%60"},
		{"/pkg.Service/Method", "/pkg.Service/Method"},
		{"/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="},
	} {
		got, err := cleanPath(row.in, false)
		if err != nil || got != row.want {
			t.Errorf("cleanPath(%q) = %q, %v; want %q", row.in, got, err, row.want)
		}
	}
}

func TestAPathThatCouldBeReadInTwoWaysIsRefused(t *testing.T) {
	for _, row := range []struct {
		in   string
		want error
	}{
		{"", errPathForm},
		{"a", errPathForm},
		{"*", errPathForm},
		{"/a%", errPathEscape},
		{"/a%2", errPathEscape},
		{"/a%zz", errPathEscape},
		{"/a%2fb", errPathSeparator},
		{"/a%2Fb", errPathSeparator},
		{`/a\b`, errPathSeparator},
		{"/a%5cb", errPathSeparator},
		{"/a%00", errPathControl},
		{"/a%0d%0ab", errPathControl},
		{"/a\x00", errPathControl},
		{"/a%7F", errPathControl},
		{"/a%c0%af", errPathOverlong},
		{"/a%C1%9c", errPathOverlong},
		{"/a%e0%80%af", errPathOverlong},
		{"/a%f0%80%80%af", errPathOverlong},
		{"/..;/admin", errPathDots},
		{"/a/..;x=1/b", errPathDots},
		{"/a/%2e%2e;/b", errPathDots},
		{"/.;/a", errPathDots},
		{"/..", errPathAbove},
		{"/../a", errPathAbove},
		{"/a/../../b", errPathAbove},
		{"/a#b", errPathFragment},
	} {
		if got, err := cleanPath(row.in, false); !errors.Is(err, row.want) {
			t.Errorf("cleanPath(%q) = %q, %v; want the error %q", row.in, got, err, row.want)
		}
	}
}

func TestAnEscapedSlashIsKeptIfAsked(t *testing.T) {
	got, err := cleanPath("/queues/%2f/jobs", true)
	if err != nil || got != "/queues/%2F/jobs" {
		t.Errorf("got %q, %v", got, err)
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, seed := range []string{"/", "/a/../b", "/%2e%2e/", "//;/..;", "/%c3%a9", "/\xff", "/a%2Fb", "/.%2e/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		clean, err := cleanPath(raw, false)
		if err != nil {
			return
		}
		again, err := cleanPath(clean, false)
		if err != nil || again != clean {
			t.Fatalf("%q became %q, and that %q, %v", raw, clean, again, err)
		}
		if isClean(raw) && raw != clean {
			t.Fatalf("%q was called clean, and became %q", raw, clean)
		}
		slow, err := decodeUnreserved(raw, false)
		if err == nil {
			slow, err = removeDots(slow)
		}
		if err != nil || slow != clean {
			t.Fatalf("%q became %q, by the long way %q, %v", raw, clean, slow, err)
		}
		checkWritten(t, clean)
	})
}

// checkWritten says what nobody who reads a clean path, and decodes it once more or less, may find there.
func checkWritten(t *testing.T, clean string) {
	u := url.URL{RawPath: clean}
	decoded, err := url.PathUnescape(clean)
	if err != nil {
		t.Fatalf("%q cannot be decoded: %v", clean, err)
	}
	u.Path = decoded
	if u.RequestURI() != clean {
		t.Fatalf("%q would be sent as %q", clean, u.RequestURI())
	}
	if strings.ContainsAny(decoded, "\\\x00\r\n") || strings.Count(decoded, "/") != strings.Count(clean, "/") {
		t.Fatalf("%q means %q", clean, decoded)
	}
	for segment := range strings.SplitSeq(decoded[1:], "/") {
		if segment == "." || segment == ".." || strings.HasPrefix(segment, "..;") {
			t.Fatalf("%q has the segment %q", clean, segment)
		}
	}
}
