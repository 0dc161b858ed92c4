package proc

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestAProcesssTimeAndMemoryAreItsOwn(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const much = 64 << 20
	held := make([]byte, much)
	for deadline := time.Now().Add(10 * time.Second); ; {
		for i := range held {
			held[i]++
		}
		now, err := CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if now-before >= 50*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s of work %s of CPU are counted", now-before)
		}
	}
	rss, peak, err := Memory(os.Getpid())
	if err != nil || rss < much || peak < rss {
		t.Errorf("%d bytes held, %d at most, %v; the slice alone has %d", rss, peak, err, much)
	}
	runtime.KeepAlive(held)
	if _, err := CPU(1 << 30); err == nil {
		t.Error("a process that is not there has a time")
	}
}
