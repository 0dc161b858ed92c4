package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// report is everything that was measured.
type report struct {
	Machine  string    `json:"machine"`
	Began    time.Time `json:"began"`
	Pods     int       `json:"pods"`
	Services int       `json:"services"`
	Policies int       `json:"policies"`
	Agents   int       `json:"agents"`
	Feeds    int       `json:"feeds"`
	// Cold is from the controller's start until it serves, Sync from there until every agent has everything.
	Cold part  `json:"cold"`
	Sync part  `json:"sync"`
	Rows []row `json:"rows"`
	// RSS is what the controller holds in the end, PeakRSS the most that it held.
	RSS     int64 `json:"rssBytes"`
	PeakRSS int64 `json:"peakRSSBytes"`
}

// part is what some time cost.
type part struct {
	Seconds       float64 `json:"seconds,omitempty"`
	ControllerCPU float64 `json:"controllerCPUSeconds"`
	AgentsCPU     float64 `json:"agentsCPUSeconds"`
	// Bytes are the updates that all agents got but those that decode them, which do not count.
	Bytes uint64 `json:"updateBytes"`
}

// row is one kind of change, made many times.
type row struct {
	Change string `json:"change"`
	// Total is from the change to the last acknowledgement, Sending the part of it since the controller had compiled it;
	// seconds, one for each time.
	Total   []float64 `json:"totalSeconds"`
	Sending []float64 `json:"sendingSeconds"`
	part
}

// percentile is the least of the values that so many are not above (nearest rank).
func percentile(values []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	rank := int(p*float64(len(sorted)) + 0.9999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func (r *report) writeTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(t, format+"\n", args...) } // Flush tells of an error
	line("%s, %s", r.Machine, r.Began.Format("2 January 2006, 15:04"))
	line("%d pods, %d services, %d policies; %d agents, %d of which decode what they get", r.Pods, r.Services, r.Policies, r.Agents, r.Feeds)
	line("")
	line("from start to serving\t%.2f s\tcontroller %.2f s CPU", r.Cold.Seconds, r.Cold.ControllerCPU)
	line("until all agents have everything\t%.2f s\tcontroller %.2f s CPU\tagents %.2f s CPU\t%.0f MB", r.Sync.Seconds, r.Sync.ControllerCPU,
		r.Sync.AgentsCPU, float64(r.Sync.Bytes)/1e6)
	line("controller's memory\t%d MiB resident\t%d MiB at most", r.RSS>>20, r.PeakRSS>>20)
	line("")
	line("change to last acknowledgement\tp50\tp99\tmax\tsince compiled: p50\tp99\tmax\tcontroller CPU/change\tagents CPU/change\tkB/change")
	for _, row := range r.Rows {
		n := float64(len(row.Total))
		line("%s\t%s\t%s\t%.0f ms\t%.0f ms\t%.1f", row.Change, spread(row.Total), spread(row.Sending), 1000*row.ControllerCPU/n,
			1000*row.AgentsCPU/n, float64(row.Bytes)/n/1000)
	}
	return t.Flush()
}

// spread is three columns.
func spread(values []float64) string {
	ms := func(s float64) string { return fmt.Sprintf("%.0f ms", 1000*s) }
	return ms(percentile(values, 0.5)) + "\t" + ms(percentile(values, 0.99)) + "\t" + ms(percentile(values, 1))
}
