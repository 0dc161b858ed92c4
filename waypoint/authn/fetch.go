package authn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/warren-mesh/warren/waypoint/keyset"
)

// How long fetched keys count as fresh: what Cache-Control says, within bounds.
const (
	defaultTTL = 5 * time.Minute
	minTTL     = time.Minute
	maxTTL     = time.Hour

	maxRedirects = 3
)

func newClient(cfg Config) *http.Client {
	client := &http.Client{Transport: cfg.Transport, CheckRedirect: checkRedirect}
	if cfg.Transport != nil {
		return client
	}
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: maxTimeout, Control: onlyElsewhere}).DialContext
	}
	client.Transport = &http.Transport{
		DialContext: dial, TLSHandshakeTimeout: maxTimeout, ResponseHeaderTimeout: maxTimeout,
		MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute, MaxIdleConns: 16, ForceAttemptHTTP2: true,
	}
	return client
}

// onlyElsewhere refuses addresses that lead to the waypoint itself or to its node's own services.
func onlyElsewhere(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("%s is not an address that keys are fetched from", ip)
	}
	return nil
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return errors.New("too many redirects")
	case via[0].URL.Scheme == "https" && r.URL.Scheme != "https":
		return errors.New("redirected from https to " + r.URL.Scheme)
	}
	return nil
}

// fetch fetches a set, and says for how long it is fresh.
func fetch(ctx context.Context, client *http.Client, uri string, timeout time.Duration) (*keyset.Set, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys: %w", err)
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(r)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, 0, fmt.Errorf("fetch keys from %s: answered %s", uri, resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, keyset.MaxBytes+1))
	if err != nil {
		return nil, 0, fmt.Errorf("fetch keys from %s: %w", uri, err)
	}
	set, err := keyset.Parse(raw)
	if err != nil {
		return nil, 0, fmt.Errorf("keys from %s: %w", uri, err)
	}
	return set, freshFor(resp.Header), nil
}

func freshFor(h http.Header) time.Duration {
	ttl := defaultTTL
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
			switch name {
			case "no-store", "no-cache":
				return minTTL
			case "max-age":
				if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 32); err == nil {
					ttl = time.Duration(n) * time.Second
				}
			}
		}
	}
	return min(max(ttl, minTTL), maxTTL)
}
