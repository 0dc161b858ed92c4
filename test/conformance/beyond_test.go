package conformance

import (
	"context"
	"embed"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/echo"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

//go:embed manifests
var manifests embed.FS

// asked is one request of a pod, and what its answer must be.
type asked struct {
	url     string // without http://; grpc://... as it is
	method  string
	headers map[string]string
	status  int // 0: 200
	wrong   func(echo.Response) string
}

// TestBeyondTheSuite looks at what the suite's tests of a mesh do not: where a redirect leads, which path the app sees,
// how gRPC methods are matched, and what the suite has tests of for gateways only.
func TestBeyondTheSuite(t *testing.T) {
	version := os.Getenv("WARREN_CONFORMANCE_VERSION")
	if version == "" {
		t.Skip("WARREN_CONFORMANCE_VERSION is not set: make conformance brings up a cluster, and runs this on it")
	}
	opts := options(t, version)
	if opts.RunTest != "" {
		t.Skipf("only %s of the suite is wanted", opts.RunTest)
	}
	opts.ManifestFS = append(opts.ManifestFS, &manifests)
	opts.ReportOutputPath = ""
	s, err := suite.NewConformanceTestSuite(opts)
	if err != nil {
		t.Fatal(err)
	}
	tests := []suite.ConformanceTest{redirects(), rewrites(), methods(), matches(), copies(), broken()}
	s.Setup(t, tests)
	if err := s.Run(t, tests); err != nil {
		t.Fatal(err)
	}
}

func redirects() suite.ConformanceTest {
	var all []asked
	for url, location := range map[string]string{
		"echo/original-prefix/lemon": "http://echo/replacement-prefix/lemon",
		"echo/full/path?q=1":         "http://echo/full-path-replacement?q=1",
		"echo/path-and-host":         "http://example.org/replacement-prefix",
		"echo/full-path-and-host/x":  "http://example.org/replacement-full",
		"echo/port":                  "http://echo:8083/port",
		"echo/port-and-host":         "http://example.org:8083/port-and-host",
		"echo/scheme":                "https://echo/scheme",
		"echo/scheme-and-host":       "https://example.org/scheme-and-host",
		"echo/hostname-redirect/a":   "http://example.org/hostname-redirect/a",
	} {
		all = append(all, asked{url: url, status: 302, wrong: func(r echo.Response) string {
			return unless(r.ResponseHeaders.Get("Location") == location, "Location %q, want %q", r.ResponseHeaders.Get("Location"), location)
		}})
	}
	return test("Redirects", all, "tests/mesh/httproute-redirect-path.yaml", "tests/mesh/httproute-redirect-port.yaml",
		"tests/mesh/httproute-redirect-scheme.yaml", "tests/mesh/httproute-redirect-host-and-status.yaml")
}

func rewrites() suite.ConformanceTest {
	var all []asked
	for url, path := range map[string]string{
		"echo/prefix/one/two": "/one/two", "echo/prefix/one?q=1": "/one?q=1", "echo/strip-prefix/three": "/three",
		"echo/strip-prefix": "/", "echo/full/one/two": "/one", "echo/full/rewrite-path-and-modify-headers/x": "/test",
	} {
		all = append(all, asked{url: url, wrong: func(r echo.Response) string {
			return unless(bodyHas(r, "URL="+path), "the app saw another path than %q", path)
		}})
	}
	return test("Rewrites", all, "tests/mesh/httproute-rewrite-path.yaml")
}

func methods() suite.ConformanceTest {
	return test("GRPCMethods", []asked{
		{url: "grpc://echo:7070/Echo", wrong: from("echo-v1")},
		{url: "grpc://echo:7070/EchoTwo", wrong: func(r echo.Response) string {
			return unless(strings.HasPrefix(r.Hostname, "echo-v2") && r.RequestHeaders.Get("x-route") == "two", "answered by %s, x-route %q", r.Hostname, r.RequestHeaders.Get("x-route"))
		}},
		{url: "grpc://echo:7070/EchoThree", headers: map[string]string{"version": "two"}, wrong: from("echo-v2")},
	}, "manifests/grpc.yaml")
}

func matches() suite.ConformanceTest {
	origin := map[string]string{"Origin": "https://www.example.com", "Access-Control-Request-Method": "PUT"}
	return test("Matches", []asked{
		{url: "echo/exact", wrong: from("echo-v2")}, {url: "echo/exact/", wrong: from("echo-v1")},
		{url: "echo/users/7", wrong: from("echo-v2")}, {url: "echo/users/x", wrong: from("echo-v1")},
		{url: "echo/method", method: "PUT", wrong: from("echo-v2")}, {url: "echo/method", wrong: from("echo-v1")},
		{url: "echo/slow?delay=10ms", wrong: from("echo-v1")}, {url: "echo/slow?delay=3s", status: 504},
		{url: "echo/each-backend", wrong: func(r echo.Response) string {
			return unless(r.ResponseHeaders.Get("X-Backend") == "v1", "the backend's own filter did nothing")
		}},
		{url: "echo/cors", method: "OPTIONS", headers: origin, wrong: func(r echo.Response) string {
			h := r.ResponseHeaders
			return unless(h.Get("Access-Control-Allow-Origin") == origin["Origin"] && h.Get("Access-Control-Max-Age") == "60", "%v", h)
		}},
	}, "manifests/http.yaml")
}

// copies asks once for what is retried, and once for what is mirrored, and then the mirror how often it was asked.
func copies() suite.ConformanceTest {
	return suite.ConformanceTest{ShortName: "BeyondCopies", Manifests: []string{"manifests/http.yaml"},
		Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
			pod := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
			attempt := 0
			fresh := func(name string) map[string]string { // a request of its own each time
				attempt++
				return map[string]string{"X-Id": fmt.Sprint(name, attempt)}
			}
			eventually := func(name string, wrong func() string) {
				t.Run(name, func(t *testing.T) {
					http.AwaitConvergence(t, s.TimeoutConfig.RequiredConsecutiveSuccesses, s.TimeoutConfig.MaxTimeToConsistency,
						func(time.Duration) bool {
							text := wrong()
							if text != "" {
								t.Log(text)
							}
							return text == ""
						})
				})
			}
			eventually("retried", func() string {
				return once(t, pod, asked{url: "echo/retried?fail=2", headers: fresh("retried"), wrong: func(r echo.Response) string {
					return unless(bodyHas(r, "Seen=3"), "the app did not see it three times")
				}})
			})
			eventually("given up", func() string {
				return once(t, pod, asked{url: "echo/retried?fail=3", headers: fresh("given up"), status: 503})
			})
			eventually("mirrored", func() string {
				id := fresh("mirrored")
				if text := once(t, pod, asked{url: "echo/mirrored", headers: id, wrong: from("echo-v1")}); text != "" {
					return text
				}
				return once(t, pod, asked{url: "echo-v2/count", headers: id, wrong: func(r echo.Response) string {
					return unless(bodyHas(r, "Seen=2"), "the mirror did not see its copy")
				}})
			})
		}}
}

// broken is a route of which one rule leads nowhere: that rule's requests get 500, and its status says why.
func broken() suite.ConformanceTest {
	out := test("Broken", []asked{{url: "echo/gone", status: 500}, {url: "echo/there", wrong: from("echo-v1")}, {url: "echo/else", status: 404}}, "manifests/broken.yaml")
	requests := out.Test
	out.Test = func(t *testing.T, s *suite.ConformanceTestSuite) {
		requests(t, s)
		route := &gatewayv1.HTTPRoute{}
		at := client.ObjectKey{Namespace: suite.MeshNamespace, Name: "beyond-broken"}
		err := wait.PollUntilContextTimeout(t.Context(), time.Second, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			if err := s.Client.Get(ctx, at, route); err != nil || len(route.Status.Parents) != 1 {
				return false, err
			}
			c := meta.FindStatusCondition(route.Status.Parents[0].Conditions, string(gatewayv1.RouteConditionResolvedRefs))
			return c != nil && c.Status == "False" && c.Reason == string(gatewayv1.RouteReasonBackendNotFound), nil
		})
		if err != nil {
			t.Errorf("ResolvedRefs is not False for BackendNotFound: %+v", route.Status.Parents)
		}
	}
	return out
}

func from(pod string) func(echo.Response) string {
	return func(r echo.Response) string {
		return unless(strings.HasPrefix(r.Hostname, pod), "answered by %q, not %s", r.Hostname, pod)
	}
}

func bodyHas(r echo.Response, line string) bool {
	return strings.Contains(r.RawContent, " body] "+line+"\n")
}

func unless(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// test asks from a pod of echo-v1 until every answer is right several times in a row.
func test(name string, all []asked, files ...string) suite.ConformanceTest {
	run := func(t *testing.T, s *suite.ConformanceTestSuite) {
		pod := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
		for _, a := range all {
			t.Run(strings.ReplaceAll(a.method+a.url, "/", "_"), func(t *testing.T) {
				last := ""
				t.Cleanup(func() {
					if t.Failed() {
						t.Log(last)
					}
				})
				http.AwaitConvergence(t, s.TimeoutConfig.RequiredConsecutiveSuccesses, s.TimeoutConfig.MaxTimeToConsistency, func(time.Duration) bool {
					last = once(t, pod, a)
					return last == ""
				})
			})
		}
	}
	return suite.ConformanceTest{ShortName: "Beyond" + name, Description: name, Manifests: files, Test: run}
}

// once asks once, and says what is wrong with the answer.
func once(t *testing.T, pod echo.MeshPod, a asked) string {
	request := http.Request{Method: a.method, Headers: a.headers, Protocol: "http"}
	url := a.url
	if rest, ok := strings.CutPrefix(url, "grpc://"); ok {
		url, request.Protocol = rest, "grpc"
	}
	host, path, _ := strings.Cut(url, "/")
	request.Host, request.Path = host, "/"+path
	status := a.status
	if status == 0 {
		status = 200
	}
	_, answer, err := pod.CaptureRequestResponseAndCompare(t, http.ExpectedResponse{
		Request: request, Response: http.Response{StatusCodes: []int{status}},
	})
	if err != nil {
		return err.Error()
	}
	if a.wrong == nil {
		return ""
	}
	return a.wrong(answer)
}
