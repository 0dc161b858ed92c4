package ztunnel

import "testing"

func TestNoPodKeepsAllOthersOut(t *testing.T) {
	c := newConns(8)
	greedy, modest := &Pod{UID: "greedy"}, &Pod{UID: "modest"}
	var open []*conn
	for {
		k := &conn{pod: greedy}
		if !c.register(k) {
			c.release(k) // of one that was refused: changes nothing
			break
		}
		open = append(open, k)
	}
	if len(open) != 6 {
		t.Errorf("one pod opened %d of 8", len(open))
	}
	for i := range 2 {
		if !c.register(&conn{pod: modest}) {
			t.Errorf("the other pod's connection %d was refused", i)
		}
	}
	if c.register(&conn{pod: modest}) {
		t.Error("the node's limit does not hold")
	}
	c.release(open[0])
	if !c.register(&conn{pod: modest}) {
		t.Error("what was released is not free")
	}
	for _, k := range open {
		c.release(k)
	}
	if len(c.byPod) != 1 {
		t.Errorf("pods without connections are still counted: %v", c.byPod)
	}
}
