package mesh

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

const redisPort = 6379

func redis(name, node string, plain bool) appPod {
	return appPod{name: name, node: node, plain: plain, ports: []int{redisPort},
		command: []string{"redis-server", "--protected-mode", "no", "--save", "", "--appendonly", "no"}}
}

func TestRedis(t *testing.T) {
	needs(t, "redis-server", "redis-server")
	needs(t, "redis-benchmark", "redis-tools")
	a := fastAppsUp(t, appPod{name: "client", node: "n1"}, redis("near", "n1", false), redis("far", "n2", false),
		appPod{name: "client", node: "n1", plain: true}, redis("server", "n2", true))
	a.Tap(appsCanary)
	t.Run("set and get", func(t *testing.T) { a.everyWay(t, a.redisSetGet) })
	t.Run("publish and subscribe", func(t *testing.T) { a.bothFamilies(t, a.redisPubSub) })
	t.Run("benchmark", func(t *testing.T) {
		a.bothFamilies(t, func(t *testing.T, w way) { a.redisBenchmark(t, client, w.host) })
		t.Run("without mesh", func(t *testing.T) {
			a.redisBenchmark(t, "legacy/client", a.addr(t, "legacy/server", false).String())
		})
	})
	a.checkAccelerated(t)
}

// redisSetGet also asks the server who it believes both ends are.
func (a *apps) redisSetGet(t *testing.T, w way) {
	cli := []string{"redis-cli", "-h", w.host}
	a.must(t, client, append(cli, "set", "key", appsCanary+w.how)...)
	if got := a.must(t, client, append(cli, "get", "key")...); strings.TrimSpace(got) != appsCanary+w.how {
		t.Errorf("get says %q", got)
	}
	seen := map[string]string{}
	for _, field := range strings.Fields(a.must(t, client, append(cli, "client", "list")...)) {
		key, value, _ := strings.Cut(field, "=")
		seen[key] = value
	}
	peer, err := netip.ParseAddrPort(seen["addr"])
	if err != nil || peer.Addr() != a.addr(t, "client", w.v6) || peer.Port() == 0 {
		t.Errorf("the server's peer is %q (%v), want one of %s", seen["addr"], err, a.addr(t, "client", w.v6))
	}
	if want := netip.AddrPortFrom(a.addr(t, w.server, w.v6), redisPort).String(); seen["laddr"] != want {
		t.Errorf("the server is at %q, want %s", seen["laddr"], want)
	}
}

// output is what a command in the background has said so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (a *apps) redisPubSub(t *testing.T, w way) {
	cli := []string{"redis-cli", "-h", w.host}
	subscribers := func() string { return strings.TrimSpace(a.must(t, client, append(cli, "pubsub", "numsub", "news")...)) }
	var heard output
	stop := a.background(t, &heard, client, append(cli, "subscribe", "news")...)
	labtest.Await(t, "subscription", 5*time.Second, func() bool { return subscribers() == "news\n1" })
	const messages = 50
	var script strings.Builder
	for i := range messages {
		fmt.Fprintf(&script, "publish news %s-%d.\n", appsCanary, i)
	}
	a.must(t, client, "sh", "-c", fmt.Sprintf("printf '%s' | redis-cli -h %s", strings.ReplaceAll(script.String(), "\n", `\n`), w.host))
	last := fmt.Sprintf("%s-%d.", appsCanary, messages-1)
	labtest.Await(t, "last message", 5*time.Second, func() bool { return strings.Contains(heard.String(), last) })
	if n := strings.Count(heard.String(), appsCanary); n != messages {
		t.Errorf("the subscriber heard %d messages of %d", n, messages)
	}
	stop()
	labtest.Await(t, "server notices that its subscriber is gone", 5*time.Second, func() bool { return subscribers() == "news\n0" })
}

func (a *apps) redisBenchmark(t *testing.T, pod, host string) {
	for _, args := range [][]string{
		{"-n", "5000", "-c", "20", "-t", "set,get,ping"},
		{"-n", "20000", "-c", "20", "-t", "set,get", "-P", "16"},
	} {
		out := a.must(t, pod, append([]string{"redis-benchmark", "-h", host, "-q"}, args...)...)
		for _, line := range strings.Split(strings.ReplaceAll(out, "\r", "\n"), "\n") {
			if strings.Contains(line, "requests per second") {
				t.Logf("%s: %s", strings.Join(args, " "), strings.TrimSpace(line))
			}
		}
		if n := strings.Count(out, "requests per second"); n < 2 || strings.Contains(out, "rror") {
			t.Errorf("benchmark says %q", out)
		}
	}
}
