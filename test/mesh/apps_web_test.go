package mesh

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// webServers is one pod's nginx, python and node, in one folder.
func webServers(t *testing.T, name, node, dir string) appPod {
	t.Helper()
	script, err := filepath.Abs("testdata/server.js")
	if err != nil {
		t.Fatal(err)
	}
	conf, err := filepath.Abs("testdata/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"tmp", "files", "files/upload"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeCanaries(t, filepath.Join(dir, "files", "page"), 1<<20)
	return appPod{name: name, node: node, ports: []int{8080, 8081, 8082}, command: []string{"sh", "-c",
		fmt.Sprintf(`/usr/bin/python3 -m http.server --bind :: --directory %[1]s/files 8081 2>/dev/null & node %[2]s & exec nginx -p %[1]s -c %[3]s`, dir, script, conf)}}
}

// writeCanaries makes a file of about size bytes in which the canary is all over.
func writeCanaries(t *testing.T, file string, size int) {
	t.Helper()
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%s %d\n", appsCanary, i)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWeb(t *testing.T) {
	for program, pkg := range map[string]string{"nginx": "nginx", "curl": "curl", "wget": "wget", "node": "nodejs", "/usr/bin/python3": "python3"} {
		needs(t, program, pkg)
	}
	near, far, mine := workDir(t, "root"), workDir(t, "root"), workDir(t, "root")
	writeCanaries(t, filepath.Join(mine, "big"), 50<<20)
	a := appsUp(t, appPod{name: "client", node: "n1"}, webServers(t, "near", "n1", near), webServers(t, "far", "n2", far))
	a.Tap(appsCanary)
	page := filepath.Join(near, "files", "page")
	t.Run("nginx sees its client", func(t *testing.T) { a.everyWay(t, a.webWhoami) })
	t.Run("curl and nginx", func(t *testing.T) { a.bothFamilies(t, func(t *testing.T, w way) { a.webCurl(t, w, page) }) })
	t.Run("upload after 100-continue", func(t *testing.T) {
		a.bothFamilies(t, func(t *testing.T, w way) {
			a.webUpload(t, w, filepath.Join(mine, "big"), map[string]string{"near": near, "far": far}[w.server])
		})
	})
	t.Run("wget and python", func(t *testing.T) { a.bothFamilies(t, func(t *testing.T, w way) { a.webPython(t, w, page) }) })
	t.Run("node", func(t *testing.T) { a.bothFamilies(t, a.webNode) })
}

// curl is a command line that fails on error answers and does not wait for ever.
func curl(args ...string) []string {
	return append([]string{"curl", "-g", "-sS", "--fail", "--max-time", "30"}, args...)
}

func (a *apps) webWhoami(t *testing.T, w way) {
	got := strings.Fields(a.must(t, client, curl("-H", "X-Canary: "+appsCanary, "-w", "%{local_ip} %{local_port} %{remote_ip}", w.url(8080, "/whoami"))...))
	me, server := a.addr(t, "client", w.v6).String(), a.addr(t, w.server, w.v6).String()
	if len(got) != 7 || got[0] != me || got[2] != server || got[3] != appsCanary {
		t.Fatalf("nginx says %q; want its client at %s and itself at %s", got, me, server)
	}
	if local := strings.TrimPrefix(got[4], "::ffff:"); local != me || got[5] != got[1] {
		t.Errorf("the client takes itself for %s port %s; nginx takes it for %s port %s", got[4], got[5], got[0], got[1])
	}
	if strings.HasPrefix(w.how, "pod") && got[6] != w.host {
		t.Errorf("the client takes its peer for %s, it dialled %s", got[6], w.host)
	}
}

// webCurl is one small thing of HTTP after another.
func (a *apps) webCurl(t *testing.T, w way, page string) {
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	url := w.url(8080, "/page")
	if got := a.must(t, client, curl(url)...); got != string(want) {
		t.Errorf("GET: %d bytes, want %d", len(got), len(want))
	}
	if got := a.must(t, client, curl("-r", "1000-500999", url)...); got != string(want[1000:501000]) {
		t.Errorf("range: %d bytes, want 500000", len(got))
	}
	if got := a.must(t, client, curl("-o", "/dev/null", "-w", "%{num_connects} ", url, "-o", "/dev/null", url, "-o", "/dev/null", url)...); got != "1 0 0 " {
		t.Errorf("connections made by three requests: %s, want 1 0 0", got)
	}
	head := a.must(t, client, curl("-I", url)...)
	if !strings.HasPrefix(head, "HTTP/1.1 200") || !strings.Contains(head, fmt.Sprintf("Content-Length: %d\r\n", len(want))) || !strings.HasSuffix(head, "\r\n\r\n") {
		t.Errorf("HEAD: %q", head)
	}
	headFile := filepath.Join(workDir(t, "root"), "head")
	if got := a.must(t, client, curl("--http1.0", "--compressed", "-D", headFile, w.url(8080, "/packed/page"))...); got != string(want) {
		t.Errorf("HTTP/1.0: %d bytes, want %d", len(got), len(want))
	}
	if text, err := os.ReadFile(headFile); err != nil || strings.Contains(string(text), "Content-Length") || !strings.Contains(string(text), "Connection: close") {
		t.Errorf("the answer should end with its connection, and says %q (%v)", text, err)
	}
}

func (a *apps) webUpload(t *testing.T, w way, file, serverDir string) {
	name := "/upload/" + strings.ReplaceAll(w.how, " ", "-")
	timed(t, "50 MB up", func() {
		r := a.try(t, client, curl("-v", "-H", "Expect: 100-continue", "--expect100-timeout", "20", "-T", file, w.url(8080, name))...)
		if r.Code != 0 || !strings.Contains(r.Err, "< HTTP/1.1 100 Continue") || !strings.Contains(r.Err, "< HTTP/1.1 201 Created") {
			t.Fatalf("exit code %d: %s", r.Code, r.Err)
		}
	})
	if string(sum(t, file)) != string(sum(t, filepath.Join(serverDir, "files", name))) {
		t.Error("what arrived is not what was sent")
	}
}

func (a *apps) webPython(t *testing.T, w way, page string) {
	want := string(sum(t, page))
	dir := workDir(t, "root")
	family := "-4"
	if w.v6 {
		family = "-6"
	}
	a.must(t, client, "wget", family, "-q", "-T", "10", "-t", "1", "-O", filepath.Join(dir, "wget"), w.url(8081, "/page"))
	const clients = 20
	a.must(t, client, "curl", "-sS", "--fail", "--max-time", "30", "-Z", "--parallel-immediate", "--parallel-max", fmt.Sprint(clients),
		"-o", filepath.Join(dir, "#1"), w.url(8081, fmt.Sprintf("/page?[1-%d]", clients)))
	for i := range clients + 1 {
		file := filepath.Join(dir, fmt.Sprint(i))
		if i == 0 {
			file = filepath.Join(dir, "wget")
		}
		if string(sum(t, file)) != want {
			t.Errorf("%s is not the page", file)
		}
	}
}

func (a *apps) webNode(t *testing.T, w way) {
	script, err := filepath.Abs("testdata/client.js")
	if err != nil {
		t.Fatal(err)
	}
	family := "4"
	if w.v6 {
		family = "6"
	}
	out := a.must(t, client, "node", script, w.url(8082, "/"), family, appsCanary)
	ports := map[int]int{}
	for line := range strings.Lines(out) {
		var seen struct {
			Peer, Canary string
			Port, Bytes  int
		}
		if err := json.Unmarshal([]byte(line), &seen); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if seen.Peer != a.addr(t, "client", w.v6).String() || seen.Canary != appsCanary || seen.Bytes != 1000*len(appsCanary) {
			t.Errorf("the server saw %+v", seen)
		}
		ports[seen.Port]++
	}
	if len(ports) != 21 {
		t.Errorf("%d connections, want 1 kept and 20 of their own", len(ports))
	}
}
