package main

import (
	"testing"
	"time"
)

func TestAgeReadsLikeKubectl(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                "0s",
		119 * time.Second:                "119s",
		5 * time.Minute:                  "5m",
		5*time.Minute + 30*time.Second:   "5m30s",
		2*time.Hour + 59*time.Minute:     "179m",
		3*time.Hour + 2*time.Minute:      "3h2m",
		47 * time.Hour:                   "47h",
		49 * time.Hour:                   "2d1h",
		90 * 24 * time.Hour:              "90d",
		(2*365 + 30) * 24 * time.Hour:    "2y30d",
		9 * 365 * 24 * time.Hour:         "9y",
		-(10*time.Minute + time.Second):  "-10m",
		-(time.Second + time.Nanosecond): "-1s",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", int64(d), got, want)
		}
	}
}

func TestShortDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "", 0: "", 900: "900ns", 45 * time.Microsecond: "45µs", 12345 * time.Microsecond: "12.3ms",
		1200 * time.Millisecond: "1.2s", 5 * time.Minute: "5m",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%d) = %q, want %q", int64(d), got, want)
		}
	}
}

func TestSizesAreBinary(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1.0KiB", 1258291: "1.2MiB", 5 << 30: "5.0GiB", 1<<64 - 1: "16.0EiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestSplitPort(t *testing.T) {
	for in, want := range map[string]struct {
		host string
		port uint32
	}{
		"shop/web:80":        {"shop/web", 80},
		"payments.shop:8080": {"payments.shop", 8080},
		"10.0.0.1:65535":     {"10.0.0.1", 65535},
		"[fd00::1]:1":        {"fd00::1", 1},
	} {
		if host, port, err := splitPort(in); err != nil || host != want.host || port != want.port {
			t.Errorf("splitPort(%q) = %q, %d, %v", in, host, port, err)
		}
	}
	for _, in := range []string{"", ":80", "web", "web:", "web:0", "web:65536", "web:-1", "web:http", "fd00::1:80", "web:80:81"} {
		if _, _, err := splitPort(in); exitCode(err) != exitUsage {
			t.Errorf("splitPort(%q): %v, want a usage error", in, err)
		}
	}
}

func TestSinceIsADurationOrATime(t *testing.T) {
	now := scriptTime()
	for in, want := range map[string]time.Time{
		"5m":                        now.Add(-5 * time.Minute),
		"2026-11-22T13:00:00Z":      now.Add(-time.Hour),
		"2026-11-22T15:00:00+01:00": now,
	} {
		if got, err := parseSince(in, now); err != nil || !got.Equal(want) {
			t.Errorf("parseSince(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"0s", "-5m", "tomorrow", "2026-11-22"} {
		if _, err := parseSince(in, now); exitCode(err) != exitUsage {
			t.Errorf("parseSince(%q): %v, want a usage error", in, err)
		}
	}
}
