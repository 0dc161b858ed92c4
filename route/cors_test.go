package route

import (
	"net/http"
	"reflect"
	"testing"
	"time"
)

func TestOriginsAreAllowedBySchemeHostAndPort(t *testing.T) {
	for _, c := range []struct {
		allowed, origin string
		want            bool
	}{
		{"*", "https://any.example:1", true},
		{"*", "null", true},
		{"https://www.foo.com", "https://www.foo.com", true},
		{"https://www.foo.com", "https://WWW.foo.com", true},
		{"https://www.foo.com", "http://www.foo.com", false},
		{"https://www.foo.com", "https://www.foo.com:443", true},
		{"https://www.foo.com", "https://www.foo.com:8443", false},
		{"http://www.foo.com:80", "http://www.foo.com", true},
		{"https://*.bar.com", "https://www.bar.com", true},
		{"https://*.bar.com", "https://a.b.bar.com", true},
		{"https://*.bar.com", "https://bar.com", false},
		{"https://*.bar.com", "https://.bar.com", false},
		{"https://*.bar.com", "https://foobar.com", false},
		{"https://*.bar.com", "https://www.bar.com.evil.example", false},
		{"https://*.bar.com", "https://evil.example/www.bar.com", false},
		{"https://*", "https://any.example", true},
		{"https://*", "https://any.example:12345", false},
		{"https://*", "http://any.example", false},
		{"https://www.foo.com", "", false},
		{"https://www.foo.com", "null", false},
	} {
		if got := (&CORS{AllowOrigins: []string{c.allowed}}).Allows(c.origin); got != c.want {
			t.Errorf("%q for %q: %v, want %v", c.origin, c.allowed, got, c.want)
		}
	}
}

func TestAPreflightIsAnswered(t *testing.T) {
	asked := http.Header{
		"Origin": {"https://www.foo.com"}, "Access-Control-Request-Method": {"PUT"},
		"Access-Control-Request-Headers": {"x-1, x-2"},
	}
	for name, c := range map[string]struct {
		cors CORS
		want map[string]string
	}{
		"by lists": {
			CORS{AllowOrigins: []string{"https://*.foo.com"}, AllowMethods: []string{"GET", "PUT"}, AllowHeaders: []string{"x-1"},
				ExposeHeaders: []string{"x-3", "x-4"}, MaxAge: time.Hour},
			map[string]string{"Allow-Origin": "https://www.foo.com", "Allow-Methods": "GET, PUT", "Allow-Headers": "x-1",
				"Expose-Headers": "x-3, x-4", "Max-Age": "3600"},
		},
		"by asterisks": {
			CORS{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"}},
			map[string]string{"Allow-Origin": "https://www.foo.com", "Allow-Methods": "*", "Allow-Headers": "*", "Expose-Headers": "*"},
		},
		"by what was asked, where credentials are sent": {
			CORS{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"}, AllowCredentials: true},
			map[string]string{"Allow-Origin": "https://www.foo.com", "Allow-Credentials": "true", "Allow-Methods": "PUT", "Allow-Headers": "x-1, x-2"},
		},
		"with nothing to an origin that is not allowed": {
			CORS{AllowOrigins: []string{"https://other.example"}, AllowMethods: []string{"GET"}, MaxAge: time.Hour}, map[string]string{},
		},
	} {
		answer := http.Header{}
		c.cors.Preflight(asked, answer)
		got := map[string]string{}
		for _, n := range []string{"Allow-Origin", "Allow-Credentials", "Allow-Methods", "Allow-Headers", "Expose-Headers", "Max-Age"} {
			if v := answer.Get("Access-Control-" + n); v != "" {
				got[n] = v
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestTheRouteSaysWhoMayReadAnAnswerNotTheBackend(t *testing.T) {
	answer := http.Header{"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Credentials": {"true"}}
	cors := CORS{AllowOrigins: []string{"https://www.foo.com"}}
	if cors.Actual(http.Header{"Origin": {"https://evil.example"}}, answer) {
		t.Error("allowed")
	}
	if want := (http.Header{"Vary": {"Origin"}}); !reflect.DeepEqual(answer, want) {
		t.Errorf("%v", answer)
	}
}
