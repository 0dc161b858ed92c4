package mesh

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	sshPort    = 2222
	bannerPort = 9001
	peerPort   = 9002
	sumPort    = 9003
)

// byteServers is one pod with sshd, servers that speak first, and one that answers with the sum of all that it got
// once its client has ended its side.
func byteServers(t *testing.T, name, node string, plain bool, keys string) appPod {
	t.Helper()
	conf, err := filepath.Abs("testdata/sshd_config")
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`
		sample tcp --mode banner --port %d & sample tcp --mode peer --port %d &
		socat TCP6-LISTEN:%d,ipv6only=0,reuseaddr,fork EXEC:sha256sum &
		mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e -f %s -h %[5]s/host -o AuthorizedKeysFile=%[5]s/user.pub`,
		bannerPort, peerPort, sumPort, conf, keys)
	return appPod{name: name, node: node, plain: plain, ports: []int{sshPort, bannerPort, peerPort, sumPort}, command: []string{"sh", "-c", script}}
}

// sshKeys makes a server's and a user's key, and the client's list of known hosts.
func sshKeys(t *testing.T) string {
	t.Helper()
	dir := workDir(t, "root")
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	pub, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "known"), append([]byte("* "), pub...), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBytesBothWays(t *testing.T) {
	needs(t, "/usr/sbin/sshd", "openssh-server")
	needs(t, "scp", "openssh-client")
	needs(t, "socat", "socat")
	keys := sshKeys(t)
	a := appsUp(t, appPod{name: "client", node: "n1"}, byteServers(t, "near", "n1", false, keys), byteServers(t, "far", "n2", false, keys),
		appPod{name: "client", node: "n1", plain: true}, byteServers(t, "server", "n2", true, keys))
	a.Tap(appsCanary)
	t.Run("the server speaks first", func(t *testing.T) { a.everyWay(t, a.serverFirst) })
	t.Run("ssh", func(t *testing.T) {
		ssh := a.Listen("SSH-2.0-OpenSSH") // which ssh itself says in the clear
		a.bothFamilies(t, func(t *testing.T, w way) { a.sshAndCopy(t, w, keys) })
		if n := ssh.Readable.Load(); n > 0 {
			t.Errorf("%d packets between the nodes had ssh's greeting", n)
		}
	})
	t.Run("a GiB and its sum", func(t *testing.T) {
		a.sumOf(t, "far, IPv4", client, "TCP:"+a.names("far")[0].host, 1<<30, appsCanary)
		a.sumOf(t, "far, IPv6", client, "TCP6:["+a.addr(t, "far", true).String()+"]", 1<<28, appsCanary)
		a.sumOf(t, "near", client, "TCP:"+a.names("near")[0].host, 1<<28, appsCanary)
		// The baseline, which the wiretap could read.
		a.sumOf(t, "far, without mesh", "legacy/client", "TCP:"+a.addr(t, "legacy/server", false).String(), 1<<28, "no canary")
	})
}

func (a *apps) serverFirst(t *testing.T, w way) {
	if got := a.must(t, client, "sample", "client", "--data", appsCanary, w.target(bannerPort)); got != "hello, I speak first\n"+appsCanary {
		t.Errorf("got %q", got)
	}
	// The client sends nothing at all, and its end of file comes from the server.
	got := a.must(t, client, "socat", "-u", "TCP:"+w.target(peerPort), "STDOUT")
	me, server := a.addr(t, "client", w.v6).String(), a.addr(t, w.server, w.v6).String()
	accepted := strings.TrimPrefix(strings.Fields(got + " - -")[0], "accept=")
	if want := fmt.Sprintf("accept=%[1]s getpeername=%[1]s local=", accepted); !strings.HasPrefix(got, want) || !strings.Contains(accepted, me) || !strings.Contains(got, server) {
		t.Errorf("the server at %s says %q; its client is at %s", server, got, me)
	}
}

func (a *apps) sshAndCopy(t *testing.T, w way, keys string) {
	options := []string{"-F", "none", "-i", filepath.Join(keys, "user"), "-o", "UserKnownHostsFile=" + filepath.Join(keys, "known"),
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"}
	login := append(append([]string{"ssh"}, options...), "-p", fmt.Sprint(sshPort), "root@"+w.host)
	got := strings.Fields(a.must(t, client, append(login, "echo", appsCanary, "$SSH_CONNECTION")...))
	if len(got) != 5 || got[0] != appsCanary || got[1] != a.addr(t, "client", w.v6).String() || got[3] != a.addr(t, w.server, w.v6).String() {
		t.Errorf("ssh says %q", got)
	}
	if r := a.try(t, client, append(login, "exit", "42")...); r.Code != 42 {
		t.Errorf("exit code %d, want the remote command's 42: %s", r.Code, r.Err)
	}
	dir := workDir(t, "root")
	from, to, back := filepath.Join(dir, "from"), filepath.Join(dir, "to"), filepath.Join(dir, "back")
	writeCanaries(t, from, 20<<20)
	scp := append(append([]string{"scp"}, options...), "-q", "-P", fmt.Sprint(sshPort))
	timed(t, "20 MB up by scp", func() { a.must(t, client, append(scp, from, "root@"+w.host+":"+to)...) })
	timed(t, "20 MB down by scp", func() { a.must(t, client, append(scp, "root@"+w.host+":"+to, back)...) })
	if string(sum(t, from)) != string(sum(t, to)) || string(sum(t, from)) != string(sum(t, back)) {
		t.Error("what arrived is not what was sent")
	}
}

// sumOf sends words over and over, size bytes in all, ends its side, and reads the sum.
func (a *apps) sumOf(t *testing.T, what, pod, target string, size int64, words string) {
	t.Helper()
	want := sha256.New()
	if _, err := io.CopyN(want, &repeat{text: words + "\n"}, size); err != nil {
		t.Fatal(err)
	}
	var got string
	took := timed(t, fmt.Sprintf("%s: %d MiB", what, size>>20), func() {
		got = a.must(t, pod, "bash", "-c", fmt.Sprintf("yes '%s' | head -c %d | socat -b 65536 -t 50 - %s:%d", words, size, target, sumPort))
	})
	if got != fmt.Sprintf("%x  -\n", want.Sum(nil)) {
		t.Errorf("%s: the server says %q, want %x", what, got, want.Sum(nil))
	}
	t.Logf("%s: %.2f Gbit/s, with both programs and the hash on the same cores", what, float64(size)*8/took.Seconds()/1e9)
}

// repeat reads as a text over and over.
type repeat struct {
	text string
	at   int
}

func (r *repeat) Read(b []byte) (int, error) {
	n := copy(b, r.text[r.at:])
	for n < len(b) {
		n += copy(b[n:], r.text)
	}
	r.at = (r.at + n) % len(r.text)
	return n, nil
}
