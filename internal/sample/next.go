package sample

import (
	"io"
	"net/http"
	"time"
)

const nextTimeout = 10 * time.Second

// askNext serves /next, and everything else by then: what an app in the middle of a chain does. It forwards the headers that
// tell which trace a request belongs to (docs/tracing.md), which is all that an app must do to be part of one.
func askNext(then http.Handler, url string) http.Handler {
	client := &http.Client{Timeout: nextTimeout}
	mux := http.NewServeMux()
	mux.Handle("/", then)
	mux.HandleFunc("/next", func(w http.ResponseWriter, r *http.Request) {
		ask, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		for _, name := range traceHeaders() {
			for _, value := range r.Header.Values(name) {
				ask.Header.Add(name, value)
			}
		}
		answer, err := client.Do(ask)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body) // the client has gone, or the next one has
	})
	return mux
}

// traceHeaders are those that belong to a trace: W3C's, and B3's.
func traceHeaders() []string {
	return []string{
		"traceparent", "tracestate", "baggage",
		"b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags",
	}
}
