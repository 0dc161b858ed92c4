package proxy

import (
	"bufio"
	"io"
	"net/http"
	"testing"

	"github.com/warren-mesh/warren/policy"
	"github.com/warren-mesh/warren/waypoint/exchange"
)

// TestAPolicyEndsTheStreamsThatItForbidsAndNoOther: a stream and an upgraded connection that go on end when a policy
// comes that denies their path; others go on.
func TestAPolicyEndsTheStreamsThatItForbidsAndNoOther(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/chat/", upgrader())
	release := make(chan struct{})
	mux.HandleFunc("/stream/", func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, "one\n")
		w.(http.Flusher).Flush()
		select {
		case <-release:
			_, _ = io.WriteString(w, "two\n")
		case <-q.Context().Done():
		}
	})
	r := newRig(t, mux).start()
	upgraded := func(path string) (io.Writer, *bufio.Reader) {
		c, in := r.raw("GET /chat" + path + " HTTP/1.1\r\nHost: web.shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 101 {
			t.Fatal(res, err)
		}
		return c, in
	}
	stream := func(path string) *bufio.Reader {
		res, err := http.Get("http://" + r.addr + "/stream" + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		in := bufio.NewReader(res.Body)
		expect(t, in, "one\n")
		return in
	}
	badChat, badIn := upgraded("/secret")
	goodChat, goodIn := upgraded("/open")
	badStream, goodStream := stream("/secret"), stream("/open")

	r.policies = []*policy.Policy{{
		Namespace: "shop", Name: "secret", Action: policy.Deny, Targets: []string{"Service shop/web"},
		Rules: []policy.Rule{{To: []policy.Operation{{Paths: []string{"*/secret"}}}}},
	}}
	r.world.Swap(r.makeWorld())
	r.proxy.Redecide()

	if rest, _ := io.ReadAll(badIn); len(rest) > 0 {
		t.Errorf("the forbidden connection went on with %q", rest)
	}
	_, _ = io.WriteString(badChat, "x") // it is gone, or goes
	if rest, err := io.ReadAll(badStream); err == nil {
		t.Errorf("the forbidden stream ended as if it were whole, with %q", rest)
	}
	_, _ = io.WriteString(goodChat, "still here")
	expect(t, goodIn, "STILL HERE")
	close(release)
	if rest, err := io.ReadAll(goodStream); string(rest) != "two\n" || err != nil {
		t.Errorf("the stream that nothing forbids: %q, %v", rest, err)
	}
	denied := 0
	for range 3 { // the two that were ended, and the stream that is over
		if rec := r.record(); rec.Outcome == exchange.Denied {
			denied++
		}
	}
	if denied != 2 {
		t.Errorf("%d records say that policy ended them, want 2", denied)
	}
}
