package kube

import (
	"testing"
	"time"
)

func TestChangesThatKeepComingAreCollectedLonger(t *testing.T) {
	const least = 20 * time.Millisecond
	settle := least
	for range 10 { // one after the other
		settle = nextSettle(settle, least, 5*time.Millisecond)
	}
	if settle != maxSettle {
		t.Errorf("under churn it is %s, want %s", settle, maxSettle)
	}
	if settle = nextSettle(settle, least, time.Second); settle != least {
		t.Errorf("after a quiet time it is %s, want %s", settle, least)
	}
	if slow := nextSettle(time.Second, time.Second, 0); slow != time.Second {
		t.Errorf("a least time beyond the most is not kept: %s", slow)
	}
}
