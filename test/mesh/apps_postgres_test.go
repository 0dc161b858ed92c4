package mesh

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

const postgresPort = 5432

// asPostgres runs a command as the user whom Debian's package makes: the server refuses to run as root.
func asPostgres(argv ...string) []string {
	return append([]string{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"}, argv...)
}

// postgresBin is where Debian keeps the newest server's programs, outside of PATH.
func postgresBin(t *testing.T, program string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	if len(found) == 0 {
		t.Fatalf("%s is missing: install postgresql", program)
	}
	return found[len(found)-1]
}

// postgresData makes an empty database and returns its folder.
func postgresData(t *testing.T) string {
	t.Helper()
	dir := workDir(t, "postgres")
	argv := asPostgres(postgresBin(t, "initdb"), "-D", dir, "-U", "postgres", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	return dir
}

func postgres(t *testing.T, name, node, data string) appPod {
	t.Helper()
	return appPod{name: name, node: node, ports: []int{postgresPort}, command: asPostgres(postgresBin(t, "postgres"), "-D", data,
		"-c", "listen_addresses=*", "-c", "unix_socket_directories="+data, "-c", "fsync=off", "-c", "shared_buffers=32MB")}
}

func TestPostgres(t *testing.T) {
	needs(t, "setpriv", "util-linux")
	needs(t, "psql", "postgresql-client")
	needs(t, "pgbench", "postgresql")
	data := map[string]string{"near": postgresData(t), "far": postgresData(t)}
	a := fastAppsUp(t, appPod{name: "client", node: "n1"}, appPod{name: "stranger", node: "n1"}, appPod{name: "stranger", node: "n1", plain: true},
		postgres(t, "near", "n1", data["near"]), postgres(t, "far", "n2", data["far"]))
	a.Tap(appsCanary)
	a.admitOnlyClient(t, data)
	t.Run("query", func(t *testing.T) { a.everyWay(t, a.pgQuery) })
	t.Run("errors come first", func(t *testing.T) { a.bothFamilies(t, a.pgErrors) })
	t.Run("copy", func(t *testing.T) { a.bothFamilies(t, a.pgCopy) })
	t.Run("cancel", func(t *testing.T) { a.bothFamilies(t, a.pgCancel) })
	t.Run("pgbench", func(t *testing.T) { a.bothFamilies(t, a.pgBench) })
	a.checkAccelerated(t)
}

// admitOnlyClient lets in nobody but the client, by its pod's addresses, and waits until the servers know.
func (a *apps) admitOnlyClient(t *testing.T, data map[string]string) {
	t.Helper()
	rules := fmt.Sprintf("host all all %s/32 trust\nhost all all %s/128 trust\nhost all all all reject\n",
		a.addr(t, "client", false), a.addr(t, "client", true))
	for server, dir := range data {
		if err := os.WriteFile(filepath.Join(dir, "pg_hba.conf"), []byte(rules), 0o644); err != nil {
			t.Fatal(err)
		}
		a.must(t, "apps/"+server, asPostgres(postgresBin(t, "pg_ctl"), "reload", "-D", dir)...)
		labtest.Await(t, server+" lets the client in", 5*time.Second, func() bool {
			return a.try(t, client, psql(a.addr(t, server, false).String(), "select 1")...).Code == 0
		})
	}
}

// psql is a command line that prints bare values and stops at the first error.
func psql(host string, statements ...string) []string {
	argv := []string{"psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", fmt.Sprintf("host=%s user=postgres dbname=postgres connect_timeout=10", host)}
	for _, s := range statements {
		argv = append(argv, "-c", s)
	}
	return argv
}

func (a *apps) pgQuery(t *testing.T, w way) {
	got := a.must(t, client, psql(w.host, "select host(inet_client_addr()), host(inet_server_addr()), '"+appsCanary+"'")...)
	want := fmt.Sprintf("%s|%s|%s\n", a.addr(t, "client", w.v6), a.addr(t, w.server, w.v6), appsCanary)
	if got != want {
		t.Errorf("the server says %q, want %q", got, want)
	}
}

// pgErrors are answers upon which the server hangs up.
func (a *apps) pgErrors(t *testing.T, w way) {
	for _, stranger := range []string{"apps/stranger", "legacy/stranger"} {
		host := a.addr(t, w.server, w.v6).String()
		r := a.try(t, stranger, psql(host, "select 1")...)
		want := fmt.Sprintf(`FATAL:  pg_hba.conf rejects connection for host "%s"`, a.addr(t, stranger, w.v6))
		if r.Code != 2 || !strings.Contains(r.Err, want) {
			t.Errorf("%s: exit code %d, %q; want %s", stranger, r.Code, r.Err, want)
		}
	}
	r := a.try(t, client, "psql", "-X", "-d", "host="+w.host+" user=postgres dbname=nowhere", "-c", "select 1")
	if r.Code != 2 || !strings.Contains(r.Err, `database "nowhere" does not exist`) {
		t.Errorf("unknown database: exit code %d, %q", r.Code, r.Err)
	}
}

// pgCopy sends about 20 MB into a table and gets them back.
func (a *apps) pgCopy(t *testing.T, w way) {
	dir := workDir(t, "root")
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	f, err := os.Create(in)
	if err != nil {
		t.Fatal(err)
	}
	b := bufio.NewWriter(f)
	for i := range 200_000 {
		fmt.Fprintf(b, "%d\t%s %064d\n", i, appsCanary, i)
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	timed(t, "copy in", func() {
		a.must(t, client, psql(w.host, "drop table if exists things", "create table things (id int primary key, words text)",
			`\copy things from '`+in+`'`)...)
	})
	timed(t, "copy out", func() { a.must(t, client, psql(w.host, `\copy (select * from things order by id) to '`+out+`'`)...) })
	if sent, back := sum(t, in), sum(t, out); !bytes.Equal(sent, back) {
		t.Errorf("sent %x, got %x", sent, back)
	}
}

func sum(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(content)
	return h[:]
}

// pgCancel presses Ctrl-C while a query runs: psql then asks for its end on a connection of its own.
func (a *apps) pgCancel(t *testing.T, w way) {
	pidFile := filepath.Join(workDir(t, "root"), "pid")
	var said output
	argv := psql(w.host, "select pg_sleep(50)")
	stop := a.background(t, &said, client, append([]string{"sh", "-c", `echo $$ >` + pidFile + `; exec "$@"`, "sh"}, argv...)...)
	labtest.Await(t, "the query runs", 5*time.Second, func() bool {
		return a.must(t, client, psql(w.host, "select count(*) from pg_stat_activity where query = 'select pg_sleep(50)'")...) == "1\n"
	})
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	labtest.Await(t, "the query is cancelled", 5*time.Second, func() bool {
		return strings.Contains(said.String(), "canceling statement due to user request")
	})
	stop()
}

func (a *apps) pgBench(t *testing.T, w way) {
	base := []string{"pgbench", "-h", w.host, "-U", "postgres"}
	a.must(t, client, append(base, "-i", "-q", "postgres")...)
	out := a.must(t, client, append(base, "-n", "-c", "8", "-t", "50", "postgres")...)
	if !strings.Contains(out, "transactions actually processed: 400/400") || !strings.Contains(out, "failed transactions: 0 ") {
		t.Errorf("pgbench says %s", out)
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "tps") || strings.HasPrefix(line, "latency average") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
