package waypoint

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/internal/labtest"
)

// backends is a service of far with a port for each web server of others.
const backends = `
apiVersion: v1
kind: Service
metadata: {name: backends, namespace: shop, labels: {warren.dev/use-waypoint: waypoint}}
spec:
  selector: {app: far}
  ports:
  - {name: a, port: 9001, appProtocol: http}
  - {name: b, port: 9002, appProtocol: http}
  - {name: c, port: 9003, appProtocol: http}
  - {name: d, port: 9004, appProtocol: http}
`

// backend is a web server of others, which writes a line for each request: the client's port, the status, the request.
type backend struct {
	name string
	port uint16
	argv []string
	log  string
}

// webServers returns the backends with their files in a folder of their own.
func webServers(t *testing.T) []backend {
	t.Helper()
	for program, pkg := range map[string]string{"nginx": "nginx", "apache2": "apache2-bin", "haproxy": "haproxy", "node": "nodejs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is not installed: hack/deps.sh %s installs it", program, pkg)
		}
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // Apache reads as somebody else
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "files"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "files", "index.html"), []byte("apache\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	logged := func(name, command string) []string {
		return []string{"sh", "-c", fmt.Sprintf("exec %s >%s/%s.log", command, dir, name)}
	}
	return []backend{
		{"nginx", 9001, []string{"nginx", "-p", dir, "-c", filepath.Join(data, "nginx.conf")}, filepath.Join(dir, "nginx.log")},
		{"Apache", 9002, []string{"apache2", "-d", dir, "-f", filepath.Join(data, "apache.conf"), "-D", "FOREGROUND"}, filepath.Join(dir, "apache.log")},
		{"HAProxy", 9003, logged("haproxy", "haproxy -db -f "+filepath.Join(data, "haproxy.cfg")), filepath.Join(dir, "haproxy.log")},
		{"Node", 9004, logged("node", "node "+filepath.Join(data, "server.js")), filepath.Join(dir, "node.log")},
	}
}

// lines returns what the backend has written, once a line with the word is there.
func (b backend) lines(t *testing.T, word string) []string {
	t.Helper()
	var all string
	labtest.Await(t, b.name+" writes of "+word, 20*time.Second, func() bool {
		raw, err := os.ReadFile(b.log)
		if err != nil {
			t.Fatal(err)
		}
		all = string(raw)
		return strings.Contains(all, word)
	})
	return strings.Split(strings.TrimSuffix(all, "\n"), "\n")
}

// TestSmuggling: of what can be read in two ways, a waypoint and the server behind it see the same number of requests, and
// nobody else's request on the same connection gets anything of it.
func TestSmuggling(t *testing.T) {
	m := up(t, "", far, backends)
	for _, b := range webServers(t) {
		background(t, m, farPod, int(b.port), b.argv...)
		t.Run(b.name, func(t *testing.T) { b.test(t, m.With(t)) })
	}
}

func (b backend) test(t *testing.T, m *labtest.Mesh) {
	x := &smuggling{backend: b, t: t, m: m, address: m.VIP("shop/backends", b.port)}
	x.innocent = m.Client("shop/guest", x.address)
	x.askInnocent("/innocent-begin.")
	x.before = len(b.lines(t, "/innocent-begin."))
	for _, row := range smuggleRows() {
		x.strict(row)
	}
	for _, row := range brokenRows() {
		x.loose(row)
	}
	x.compare()
	if x.reused == 0 {
		t.Error("no innocent request went by a connection that another client's request had gone by before: this proves little")
	}
	t.Logf("%d innocent requests came by the connection of the row before", x.reused)
}

// smuggling is the test of one backend.
type smuggling struct {
	backend
	t        *testing.T
	m        *labtest.Mesh
	address  string
	innocent *http.Client
	before   int          // lines of the backend's that were looked at
	asked    int          // innocent requests
	reused   int          // innocent requests on the connection of another's
	rows     []smuggleRow // of which the backend saw any
	sent     []int        // requests of each that the backend saw
	broken   int          // how many of the backend's lines are of broken bodies
}

// strict sends a row whose requests the backend writes of before it answers.
func (x *smuggling) strict(row smuggleRow) {
	statuses := x.send(row)
	seen := x.seen()
	last := seen[len(seen)-1]
	seen = seen[:len(seen)-1]
	// An answer that comes before its request was read to the end may be the last on its connection.
	cut := strings.Contains(row.raw, "POST") || strings.Contains(row.raw, "Content-Length")
	if len(seen) != row.sent && !(cut && len(seen) > 0 && len(seen) < row.sent && len(seen) == len(statuses)) {
		x.t.Errorf("%s: answered %v; %s saw %d requests, want %d: %q", row.name, statuses, x.name, len(seen), row.sent, seen)
	}
	if len(seen) > 0 && clientPort(seen[len(seen)-1]) == clientPort(last) {
		x.reused++
	}
	if len(seen) > 0 {
		x.rows, x.sent = append(x.rows, row), append(x.sent, len(seen))
	}
}

// loose sends a row whose body is broken: what the backend writes of it, if it does, comes when it has noticed.
func (x *smuggling) loose(row smuggleRow) {
	x.send(row)
	x.broken += len(x.seen()) - 1
}

func (x *smuggling) send(row smuggleRow) (statuses []int) {
	x.t.Helper()
	conn, err := x.m.Dial(x.t.Context(), "shop/web", x.address)
	if err != nil {
		x.t.Fatal(err)
	}
	return row.send(x.t, conn)
}

// seen has another client ask, and returns what the backend wrote up to that.
func (x *smuggling) seen() []string {
	x.t.Helper()
	x.asked++
	word := fmt.Sprintf("/innocent-%d.", x.asked)
	x.askInnocent(word)
	lines := x.lines(x.t, word)
	seen := lines[x.before:]
	x.before = len(lines)
	return seen
}

// compare holds what the backend saw, connection by connection, against what the waypoint says that it sent on.
func (x *smuggling) compare() {
	x.t.Helper()
	var counted []int
	labtest.Await(x.t, "the waypoint's records", 20*time.Second, func() bool {
		counted = x.counted()
		return len(counted) >= len(x.sent) && sum(counted[len(x.sent):]) >= x.broken // records come a little later
	})
	for i, sent := range x.sent {
		if counted[i] != sent {
			x.t.Fatalf("connection %d, %s: the waypoint counts %d requests, %s %d", i, x.rows[i].name, counted[i], x.name, sent)
		}
	}
	if broken := sum(counted[len(x.sent):]); x.broken > broken {
		x.t.Errorf("of broken bodies the waypoint counts %d requests, and %s %d", broken, x.name, x.broken)
	}
}

// counted returns how many requests the waypoint says that it sent on of each connection of web's to the backend of which
// it sent any, the oldest first.
func (x *smuggling) counted() []int {
	began, tries := map[string]int64{}, map[string]int{}
	for _, f := range x.m.Flows(&adminv1.FlowsRequest{From: "shop/web", Type: "request", Port: uint32(x.port), Last: 2000}) {
		if n := len(f.GetHttp().GetTries()); n > 0 {
			if at, known := began[f.GetId()]; !known || f.GetStartUnixNano() < at {
				began[f.GetId()] = f.GetStartUnixNano()
			}
			tries[f.GetId()] += n
		}
	}
	var out []int
	for _, id := range slices.SortedFunc(maps.Keys(began), func(a, b string) int { return cmp.Compare(began[a], began[b]) }) {
		out = append(out, tries[id])
	}
	return out
}

// clientPort is the client's port in a line of a backend's: it tells connections apart.
func clientPort(line string) string {
	before, _, _ := strings.Cut(line, " ")
	return before
}

// askInnocent is another client's request, which must get its own answer.
func (x *smuggling) askInnocent(path string) {
	t := x.t
	t.Helper()
	res, err := x.innocent.Get("http://far.shop" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK || !strings.Contains(res.Header.Get("X-Seen"), path) {
		t.Errorf("%s is answered %s for %q", path, res.Status, res.Header.Get("X-Seen"))
	}
}

// smuggleRow is what a client sends, byte by byte.
type smuggleRow struct {
	name, raw string
	sent      int // requests that pass
	// broken is a body that turns out to be none on its way: whether the server behind writes of it is its own affair.
	broken bool
}

// send sends it and returns the statuses of the answers: as many as requests may pass, and one or none if none may.
func (r smuggleRow) send(t *testing.T, conn io.ReadWriteCloser) (statuses []int) {
	t.Helper()
	defer conn.Close()
	_ = conn.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, r.raw); err != nil {
		return nil // refused before it was all sent
	}
	reader := bufio.NewReader(conn)
	for i := range max(r.sent, 1) {
		res, err := http.ReadResponse(reader, nil)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: no answer", r.name)
		}
		if err != nil {
			return statuses
		}
		statuses = append(statuses, res.StatusCode)
		if r.sent == 0 && res.StatusCode < 400 {
			t.Errorf("%s: answered %d", r.name, res.StatusCode)
		}
		if i+1 < r.sent {
			_, _ = io.Copy(io.Discard, res.Body) // the next comes behind it
		}
	}
	return statuses
}

func sum(all []int) (n int) {
	for _, one := range all {
		n += one
	}
	return n
}
