package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

const (
	maxConnections = 1000
	maxRate        = 100_000 // requests a second
	requestTimeout = 10 * time.Second
)

// Load says what load to make.
type Load struct {
	URL         string
	Connections int           // at most this many requests at once
	Rate        float64       // requests a second, all connections together
	Duration    time.Duration // 0 means until told to end
	Report      time.Duration // how often to print; 0 means only at the end
	NewConns    bool          // a new connection for each request
}

func loadCommand(out io.Writer) *cobra.Command {
	var l Load
	cmd := &cobra.Command{
		Use:   "load URL",
		Short: "GET a URL at a steady rate and print latency percentiles",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l.URL = args[0]
			return l.Run(cmd.Context(), out)
		},
	}
	f := cmd.Flags()
	f.IntVar(&l.Connections, "connections", 4, fmt.Sprintf("requests at once, up to %d", maxConnections))
	f.Float64Var(&l.Rate, "rate", 20, fmt.Sprintf("requests a second in all, up to %d", maxRate))
	f.DurationVar(&l.Duration, "duration", 10*time.Second, "how long; 0 means until told to end")
	f.DurationVar(&l.Report, "report", 0, "print a line this often as well")
	f.BoolVar(&l.NewConns, "new-connections", false, "a new connection for each request")
	return cmd
}

// Run makes the load, prints to out, and returns when it is over. Requests that fail are counted, not returned.
// A request that finds every connection busy is not sent later but counted as late: the rate stays honest.
func (l Load) Run(ctx context.Context, out io.Writer) error {
	if l.Connections < 1 || l.Connections > maxConnections {
		return fmt.Errorf("connections %d: want 1 to %d", l.Connections, maxConnections)
	}
	if !(l.Rate > 0 && l.Rate <= maxRate) {
		return fmt.Errorf("rate %g: want more than 0 and at most %d", l.Rate, maxRate)
	}
	if l.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.Duration)
		defer cancel()
	}
	transport := &http.Transport{MaxIdleConnsPerHost: l.Connections, MaxConnsPerHost: l.Connections, DisableKeepAlives: l.NewConns}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: requestTimeout}
	total := &result{began: time.Now()}
	work := make(chan struct{})
	var g errgroup.Group
	for range l.Connections {
		g.Go(func() error {
			for range work {
				// A request that was sent is finished even if the time is up in between.
				total.add(get(context.WithoutCancel(ctx), client, l.URL))
			}
			return nil
		})
	}
	l.pace(ctx, work, total, out)
	close(work)
	err := g.Wait()
	total.print(out)
	return err
}

// pace hands out work until ctx ends.
func (l Load) pace(ctx context.Context, work chan<- struct{}, total *result, out io.Writer) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / l.Rate))
	defer tick.Stop()
	var report <-chan time.Time
	if l.Report > 0 {
		t := time.NewTicker(l.Report)
		defer t.Stop()
		report = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-report:
			total.print(out)
		case <-tick.C:
			select {
			case work <- struct{}{}:
			default:
				total.skip()
			}
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) (time.Duration, error) {
	begin := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	err = errors.Join(err, resp.Body.Close())
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = errors.New(resp.Status)
	}
	return time.Since(begin), err
}

// result counts in buckets that grow by 2 %, from 1 µs to about 400 s: its size does not depend on how long it runs.
type result struct {
	began time.Time

	mu      sync.Mutex
	buckets [1000]uint64
	ok      uint64
	failed  uint64
	late    uint64
	lastErr error
}

var bucketBase = math.Log(1.02)

func (r *result) add(took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed++
		r.lastErr = err
		return
	}
	r.ok++
	i := int(math.Log(max(float64(took)/float64(time.Microsecond), 1)) / bucketBase)
	r.buckets[min(i, len(r.buckets)-1)]++
}

func (r *result) skip() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.late++
}

// percentile is the upper end of the bucket that holds the p-th part of all requests; r.mu is held.
func (r *result) percentile(p float64) time.Duration {
	want := uint64(math.Ceil(p * float64(r.ok)))
	var seen uint64
	for i, n := range r.buckets {
		if seen += n; n > 0 && seen >= want {
			return time.Duration(math.Exp(float64(i+1)*bucketBase) * float64(time.Microsecond))
		}
	}
	return 0
}

func (r *result) print(out io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seconds := time.Since(r.began).Seconds()
	_, _ = fmt.Fprintf(out, "%d ok, %d failed, %d late in %.1f s (%.1f/s): p50 %s p90 %s p99 %s p99.9 %s\n",
		r.ok, r.failed, r.late, seconds, float64(r.ok)/seconds,
		round(r.percentile(0.5)), round(r.percentile(0.9)), round(r.percentile(0.99)), round(r.percentile(0.999)))
	if r.lastErr != nil {
		_, _ = fmt.Fprintf(out, "last error: %v\n", r.lastErr)
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
