package mesh

import (
	"syscall"
	"testing"
	"time"

	"github.com/warren-mesh/warren/internal/labtest"
)

// TestAReplacedAgentRefusesNoConnection: what pods of its node dial while there is none waits for the next, what other nodes'
// pods dial there too.
func TestAReplacedAgentRefusesNoConnection(t *testing.T) {
	const without = 1500 * time.Millisecond
	m := up(t, town(meshed, ""))
	pay, web, cart := bothOf(t, m, "shop/pay"), bothOf(t, m, "shop/web"), bothOf(t, m, "shop/cart")
	awaitPings(t, m, "shop/web", append(pay, cart...)...)
	awaitPings(t, m, "shop/pay", web...)
	loads := map[string]*traffic{
		"from the node": load(t, m, "shop/web", pay...), "to the node": load(t, m, "shop/pay", web...), "within the node": load(t, m, "shop/web", cart...),
	}
	must(t, m.KillAgent("n1", syscall.SIGTERM))
	time.Sleep(without) // what a node takes to start the next
	startAgent(t, m, "n1")
	for name, l := range loads {
		n := l.ok.Load()
		labtest.Await(t, "new connections "+name, 20*time.Second, func() bool { return l.ok.Load() > n+20 })
		l.stop()
		if l.failed.Load() > 0 {
			t.Errorf("%s: %d of %d connections failed: %v", name, l.failed.Load(), l.failed.Load()+l.ok.Load(), l.lastErr.Load())
		}
		if longest := time.Duration(l.longest.Load()); longest < without {
			t.Errorf("%s: the longest took %s, though there was no agent for %s", name, longest, without)
		} else {
			t.Logf("%s: the longest of %d took %s", name, l.ok.Load(), longest)
		}
	}
}
