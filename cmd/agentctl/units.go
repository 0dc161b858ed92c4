package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// age prints a duration as kubectl does, at most two units: 45s, 5m, 3h2m, 12d, 2y30d.
func age(d time.Duration) string {
	if d < 0 {
		return "-" + age(-d)
	}
	const day = 24 * time.Hour
	const year = 365 * day
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return pair(d, time.Minute, "m", time.Second, "s")
	case d < 3*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 8*time.Hour:
		return pair(d, time.Hour, "h", time.Minute, "m")
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d < 8*day:
		return pair(d, day, "d", time.Hour, "h")
	case d < 2*year:
		return fmt.Sprintf("%dd", d/day)
	case d < 8*year:
		return pair(d, year, "y", day, "d")
	}
	return fmt.Sprintf("%dy", d/year)
}

func pair(d, big time.Duration, bigUnit string, small time.Duration, smallUnit string) string {
	rest := d % big / small
	if rest == 0 {
		return fmt.Sprintf("%d%s", d/big, bigUnit)
	}
	return fmt.Sprintf("%d%s%d%s", d/big, bigUnit, rest, smallUnit)
}

// short prints how long a step or a connection took: 850µs, 12.3ms, 1.2s, then as age.
func short(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Microsecond:
		return fmt.Sprintf("%dns", d)
	case d < time.Millisecond:
		return fmt.Sprintf("%dµs", d/time.Microsecond)
	case d < time.Second:
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return age(d)
}

// size prints bytes in binary units: 532B, 1.2MiB.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v := float64(n) / 1024
	for _, unit := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if v < 1024 {
			return fmt.Sprintf("%.1f%s", v, unit)
		}
		v /= 1024
	}
	return fmt.Sprintf("%.1fEiB", v)
}

// until prints how far a wall-clock second is ahead, or that it has passed. 0 is not set.
func (a *app) until(unix int64) string {
	if unix == 0 {
		return ""
	}
	d := time.Unix(unix, 0).Sub(a.now())
	if d <= 0 {
		return age(-d) + " ago"
	}
	return age(d)
}

// since prints how long ago a wall-clock second was. 0 is not set.
func (a *app) since(unix int64) string {
	if unix == 0 {
		return ""
	}
	return age(a.now().Sub(time.Unix(unix, 0)))
}

// count prints n things: "1 pod", "2 pods".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// splitPort splits "name:8080", "10.0.0.1:8080" or "[fd00::1]:8080"; name may be "namespace/pod".
func splitPort(s string) (string, uint32, error) {
	const hint = "write it as NAMESPACE/POD:PORT, HOST:PORT or [ADDRESS]:PORT"
	host, text, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return "", 0, usagef(hint, "%q does not name a destination and a port", s)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", 0, usagef(hint, "%q is not a port between 1 and 65535", text)
	}
	return host, uint32(port), nil
}

// join prints a list in one cell.
func join(items []string) string { return strings.Join(items, ",") }
