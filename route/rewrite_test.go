package route

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
)

// The rows are the Gateway API's (HTTPPathModifier.replacePrefixMatch), and what it leaves open.
func TestAPrefixIsReplacedByWholeElements(t *testing.T) {
	for _, c := range []struct{ path, prefix, with, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		{"/foo/bar", "/", "/xyz", "/xyz/foo/bar"},
		{"/foo/bar", "", "/xyz", "/xyz/foo/bar"},
		{"/foo", "/foo", "xyz", "/xyz"},
		{"/~ann/x", "/%7eann", "/u", "/u/x"},
		{"/foobar", "/foo", "/xyz", "/foobar"}, // did not match
	} {
		got := PathChange{Kind: ReplacePrefix, Value: c.with}.Apply(c.path, &Match{Path: c.prefix})
		if got != c.want {
			t.Errorf("%s with %q for %q: %s, want %s", c.path, c.with, c.prefix, got, c.want)
		}
	}
}

func TestPathsChangeByTheirMatch(t *testing.T) {
	prefix := PathChange{Kind: ReplacePrefix, Value: "/b"}
	for _, c := range []struct {
		change PathChange
		match  *Match
		want   string
	}{
		{PathChange{}, &Match{Path: "/a"}, "/a/x"},
		{PathChange{Kind: ReplaceFull, Value: "/b"}, &Match{Path: "/a"}, "/b"},
		{PathChange{Kind: ReplaceFull}, nil, "/"},
		{prefix, nil, "/b/a/x"},
		{prefix, &Match{Path: "/a/x", PathKind: Exact}, "/b"},
		{prefix, &Match{Path: "/a/.*", PathKind: Regex}, "/a/x"},
	} {
		if got := c.change.Apply("/a/x", c.match); got != c.want {
			t.Errorf("%+v by %+v: %s, want %s", c.change, c.match, got, c.want)
		}
	}
}

func TestARedirectSaysWhere(t *testing.T) {
	web := Asked{Scheme: "http", Host: "web:8080", Port: 8080, Path: "/a/x", RawQuery: "q=1"}
	eighty := Asked{Scheme: "http", Host: "Web", Port: 80, Path: "/a"}
	v6 := Asked{Scheme: "http", Host: "[2001:db8::1]:80", Port: 80, Path: "/"}
	for _, c := range []struct {
		redirect Redirect
		asked    Asked
		want     string
	}{
		{Redirect{}, web, "http://web:8080/a/x?q=1"},
		{Redirect{}, eighty, "http://web/a"},
		{Redirect{}, v6, "http://[2001:db8::1]/"},
		{Redirect{Hostname: "example.org"}, web, "http://example.org:8080/a/x?q=1"},
		{Redirect{Scheme: "https"}, web, "https://web/a/x?q=1"},
		{Redirect{Scheme: "http"}, web, "http://web/a/x?q=1"},
		{Redirect{Scheme: "https", Port: 8443}, web, "https://web:8443/a/x?q=1"},
		{Redirect{Scheme: "https", Port: 80}, eighty, "https://web:80/a"},
		{Redirect{Scheme: "https", Port: 443}, eighty, "https://web/a"},
		{Redirect{Port: 80}, web, "http://web/a/x?q=1"},
		{Redirect{Port: 8083}, eighty, "http://web:8083/a"},
		{Redirect{Path: PathChange{Kind: ReplacePrefix, Value: "/b"}}, web, "http://web:8080/b/x?q=1"},
		{Redirect{Path: PathChange{Kind: ReplaceFull, Value: "/b"}}, web, "http://web:8080/b?q=1"},
	} {
		if got := c.redirect.Location(c.asked, &Match{Path: "/a"}); got != c.want {
			t.Errorf("%+v of %+v: %s, want %s", c.redirect, c.asked, got, c.want)
		}
	}
}

func TestHeadersAreSetAddedAndRemovedInThatOrder(t *testing.T) {
	m := HeaderModifier{
		Set: []Header{{"x-set", "new"}}, Add: []Header{{"x-set", "more"}, {"x-add", "2"}}, Remove: []string{"X-Gone", "x-none"},
	}
	h := http.Header{"X-Set": {"a", "b"}, "X-Add": {"1"}, "X-Gone": {"1"}}
	m.Apply(h)
	if want := (http.Header{"X-Set": {"new", "more"}, "X-Add": {"1", "2"}}); !reflect.DeepEqual(h, want) {
		t.Errorf("%v, want %v", h, want)
	}
}

func TestARequestsHostCanBeSetAsAHeader(t *testing.T) {
	r := httptest.NewRequest("GET", "http://web/", nil)
	(&HeaderModifier{Set: []Header{{"host", "inner"}}, Remove: []string{"Host"}}).ApplyRequest(r)
	if r.Host != "inner" || r.Header.Values("Host") != nil {
		t.Errorf("%q, %v", r.Host, r.Header)
	}
}

func TestAHostHasNoPortAndNoCase(t *testing.T) {
	for host, want := range map[string]string{
		"Web": "web", "web:80": "web", "[::1]": "[::1]", "[::1]:80": "[::1]", "": "", "web:": "web", "10.0.0.1:8": "10.0.0.1",
	} {
		if got := HostOf(host); got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
}
