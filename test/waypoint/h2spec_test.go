package waypoint

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/warren-mesh/warren/lab"
)

// h2specDeviations are the h2spec cases that a waypoint does not pass, and why. All are choices of net/http.
var h2specDeviations = map[string]string{
	"http2/3.5/2 Sends invalid connection preface": "the port is HTTP/1.1's as well: what is no preface is answered 400 in HTTP/1.1 and the " +
		"connection is closed",
	"http2/4.2/3 Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE": "h2spec sends 16 KiB and a bit whatever limit it " +
		"was told, and more are allowed",
	"http2/6.5.3/1 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE": "a frame that sets a thing twice ends the connection: nobody honest " +
		"sends one",
	"http2/8.1.2.2/1 Sends a HEADERS frame that contains the connection-specific header field":                     answers400,
	`http2/8.1.2.2/2 Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`: answers400,
}

// answers400: RFC 9113, section 8.1.1, allows an answer before the stream ends. TestSmuggling sees that nothing is passed on.
const answers400 = "answers 400 where h2spec wants a reset"

// h2specReport is h2spec's JUnit file.
type h2specReport struct {
	Suites []struct {
		Cases []struct {
			Package string    `xml:"package,attr"`
			Class   string    `xml:"classname,attr"`
			Failure *struct{} `xml:"failure"`
			Error   *struct{} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// TestH2spec: h2spec, in a client's pod, finds nothing in a waypoint's HTTP/2 but what is listed.
func TestH2spec(t *testing.T) {
	program := tool(t, "../interop/hbone/h2spec", "github.com/summerwind/h2spec/cmd/h2spec")
	m := up(t, "", far)
	serveFar(t, m, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, "an answer with something in it")
	}))
	host, port, err := net.SplitHostPort(m.VIP(farService, farH2C))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "report.xml")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out bytes.Buffer
	// The exit code says that some case failed, which is what the report is for.
	if _, err := m.Exec(ctx, "shop/web", []string{program, "-S", "-h", host, "-p", port, "-j", file}, lab.Stdio{Out: &out, Err: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("h2spec left no report: %v\n%s", err, out.String())
	}
	var report h2specReport
	if err := xml.Unmarshal(raw, &report); err != nil {
		t.Fatal(err)
	}
	passed, failed := report.count()
	for _, name := range failed {
		if h2specDeviations[name] == "" {
			t.Errorf("%q failed, and no reason is recorded", name)
		}
	}
	for name := range h2specDeviations {
		if !slices.Contains(failed, name) {
			t.Errorf("%q is recorded as a deviation but passes", name)
		}
	}
	t.Logf("h2spec: %d passed, %d deviate", passed, len(failed))
	if passed < 100 {
		t.Errorf("only %d cases ran", passed)
	}
	if t.Failed() {
		t.Logf("%s", out.String())
	}
}

// count returns how many cases passed, and which did not.
func (r h2specReport) count() (passed int, failed []string) {
	for _, s := range r.Suites {
		for i, c := range s.Cases {
			if c.Failure == nil && c.Error == nil && c.Skipped == nil {
				passed++
				continue
			}
			failed = append(failed, c.Package+"/"+strconv.Itoa(i+1)+" "+c.Class)
		}
	}
	return passed, failed
}
