package archtest

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the module's root, seen from here.
const root = "../.."

// globals are the package-level variables that stay, and why.
func globals() map[string]string {
	return map[string]string{
		"agent podsDesc":                    "a metric's description, never changed",
		"agent capDesc":                     "a metric's description, never changed",
		"agent certDesc":                    "a metric's description, never changed",
		"api/resource framing":              "a table, never changed",
		"bpf hooks":                         "a table, never changed",
		"bpf reasons":                       "a table, never changed",
		"controller/admin order":            "a table, never changed",
		"controller/manifest foreignFields": "a table, never changed",
		"deploy chart":                      "go:embed",
		"internal/version release":          "set by the linker",
		"internal/labtest binDir":           "set once by TestMain",
		"internal/labtest labs":             "numbers the labs of a test binary",
		"internal/sample bucketBase":        "a constant that Go cannot compute",
		"lab labName":                       "a compiled literal",
		"lab variable":                      "a compiled literal",
		"lab dnsLabel":                      "a compiled literal",
		"lab dnsSubdomain":                  "a compiled literal",
		"lab serviceCIDR4":                  "a constant that Go has no syntax for",
		"lab serviceCIDR6":                  "a constant that Go has no syntax for",
		"lab kindsWithPods":                 "a table, never changed",
		"test/e2e/cluster files":            "embedded files",
		"ztunnel/hbone frameSizes":          "a table, never changed",
		"ztunnel buffers":                   "a sync.Pool has no content to see",
		"ztunnel/peer wireBuffers":          "likewise",
	}
}

// tooLong are the files and functions that are longer than the rule, and why; what a test reads as one story may be.
func tooLong() map[string]string {
	return map[string]string{
		"controller/controller_test.go": "one file of journeys, to be split",
		"cmd/agent/main.go":             "one flag a line",
	}
}

// inLoops are the files that may call time.After in a loop: since Go 1.23 it leaks nothing, and there it is rare.
func inLoops() map[string]string {
	return map[string]string{
		"ztunnel/ztunnel.go":   "a pause when the node is out of file descriptors",
		"agent/feed/client.go": "the pause before the controller is followed again",
		"agent/relay/relay.go": "the pause before the controller is called again",
		"controller/self.go":   "the pause before the controller's own certificate is renewed",
	}
}

// patterns are the files that may compile regular expressions that are no literals: those that people write in routes.
// Go's are RE2, without backtracking, and each is bounded before.
func patterns() map[string]bool { return map[string]bool{"route/values.go": true} }

func TestSourceKeepsTheRules(t *testing.T) {
	allowed := globals()
	for _, f := range sources(t) {
		for _, v := range CheckGlobals(f, allowed) {
			t.Error(v)
		}
		for _, v := range CheckConstructs(f) {
			if patterns()[f.Path] && strings.HasSuffix(v, "regular expression that is no literal") {
				continue
			}
			if inLoops()[f.Path] == "" || !strings.HasSuffix(v, "time.After in a loop") {
				t.Error(v)
			}
		}
		for _, v := range CheckLengths(f) {
			if tooLong()[f.Path] == "" && !isLongTest(f, v) {
				t.Error(v)
			}
		}
	}
}

// isLongTest: a test function may be a long table, but not its file.
func isLongTest(f *File, v string) bool { return f.isTest() && strings.Contains(v, "function") }

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string][]string{}
	for _, f := range sources(t) {
		dir := path.Dir(f.Path)
		comments[dir] = append(comments[dir], "")
		if f.HasPackageComment() {
			comments[dir] = append(comments[dir], f.Path)
		}
	}
	for dir, files := range comments {
		files = slices.DeleteFunc(files, func(s string) bool { return s == "" })
		if len(files) != 1 {
			t.Errorf("%s: %d package comments %v, want 1", dir, len(files), files)
		}
	}
}

func TestGeneratedFilesSaySo(t *testing.T) {
	n := 0
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".pb.go") && !strings.HasSuffix(name, "_bpfel.go") {
			continue
		}
		n++
		_, generated, err := Parse(name, read(t, name))
		if err != nil || !generated {
			t.Errorf("%s: no generated-code marker (%v)", name, err)
		}
	}
	if n < 4 {
		t.Errorf("only %d generated files were found", n)
	}
}

func TestKernelCodeNamesItsLicence(t *testing.T) {
	n := 0
	for _, name := range tracked(t) {
		if !strings.HasPrefix(name, "bpf/") || !strings.HasSuffix(name, ".c") && !strings.HasSuffix(name, ".h") {
			continue
		}
		n++
		head, _, _ := strings.Cut(string(read(t, name)), "#include")
		if !strings.Contains(head, "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)") {
			t.Errorf("%s: no SPDX line of both licences", name)
		}
	}
	if n < 2 {
		t.Errorf("only %d files of kernel code were found", n)
	}
	if !strings.Contains(string(read(t, "bpf/capture.c")), `SEC("license") = "Dual BSD/GPL"`) {
		t.Error("bpf/capture.c: the kernel is not told Dual BSD/GPL")
	}
}

// TestNothingNamesTheBuildMachine: no absolute path of whoever builds.
func TestNothingNamesTheBuildMachine(t *testing.T) {
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	home := regexp.MustCompile(`(^|["'\s=(])/(home|Users)/[a-z]`)
	for _, name := range tracked(t) {
		text := string(read(t, name))
		if len(here) > 1 && strings.Contains(text, here+"/") || home.MatchString(text) {
			t.Errorf("%s names a local path", name)
		}
	}
}

// TestChecksSeeViolations: each check fails on what it forbids.
func TestChecksSeeViolations(t *testing.T) {
	bad := `package bad

import (
	"math/rand"
	_ "net/http/pprof"
	"crypto/tls"
	"net/http"
	"net/url"
	"regexp"
	"time"
)

var counter int
var table, ErrFine = map[string]int{}, errors.New("fine")

func init() { counter++ }

func f(pattern string) {
	_ = &tls.Config{InsecureSkipVerify: true}
	_ = &tls.Config{InsecureSkipVerify: true, VerifyConnection: nil}
	http.HandleFunc("/", nil)
	url.Parse(pattern)
	regexp.MustCompile(pattern)
	regexp.MustCompile("fine")
	<-time.After(1)
	for {
		<-time.After(rand.Int())
	}
}
`
	f, generated, err := Parse("ztunnel/bad.go", []byte(bad))
	if err != nil || generated {
		t.Fatal(generated, err)
	}
	got := append(CheckConstructs(f), CheckGlobals(f, map[string]string{"ztunnel counter": "allowed"})...)
	want := []string{
		"ztunnel/bad.go:4: import of math/rand", "ztunnel/bad.go:5: import of net/http/pprof",
		"ztunnel/bad.go:19: InsecureSkipVerify without VerifyConnection", "ztunnel/bad.go:21: net/http's default mux",
		"ztunnel/bad.go:22: url.Parse in the data path", "ztunnel/bad.go:23: regular expression that is no literal",
		"ztunnel/bad.go:27: time.After in a loop",
		"ztunnel/bad.go:14: package-level variable table", "ztunnel/bad.go:16: func init",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	long, _, err := Parse("cmd/x/main.go", []byte("package main\nfunc main() {"+strings.Repeat("\n", 400)+"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if found := CheckLengths(long); len(found) != 3 || f.HasPackageComment() {
		t.Errorf("of a long main: %v", found)
	}
}

// sources are the Go files of the module that no tool wrote.
func sources(t *testing.T) (out []*File) {
	t.Helper()
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "/testdata/") {
			continue
		}
		f, generated, err := Parse(name, read(t, name))
		if err != nil {
			t.Error(err)
		} else if !generated {
			out = append(out, f)
		}
	}
	if len(out) < 100 {
		t.Fatalf("only %d Go files were found", len(out))
	}
	return out
}

// tracked are the files of the module: git's, and those it does not ignore yet.
func tracked(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard")
	cmd.Dir = root
	raw, err := cmd.Output()
	if err != nil {
		t.Fatal(fmt.Errorf("git ls-files: %w", err))
	}
	return slices.DeleteFunc(strings.Fields(string(raw)), func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err != nil
	})
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
