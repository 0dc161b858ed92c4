package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// measurement is one load on one row in one round. Latencies are microseconds.
type measurement struct {
	Round     int              `json:"round"`
	Load      string           `json:"load"`
	Row       string           `json:"row"`
	Problem   string           `json:"problem,omitempty"` // why it does not count
	Requests  int              `json:"requests"`
	Failed    int              `json:"failed"`
	Seconds   float64          `json:"seconds"`
	PerSecond float64          `json:"perSecond"`
	P50       float64          `json:"p50Micros"`
	P99       float64          `json:"p99Micros"`
	Used      map[string]usage `json:"used,omitempty"` // by the processes on the path
}

// spread is a figure over the rounds.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// summary is what all rounds of one load on one row come to. Ratios are to the row direct of the same round.
type summary struct {
	Load    string `json:"load"`
	Row     string `json:"row"`
	Rounds  int    `json:"rounds"`            // that count
	Problem string `json:"problem,omitempty"` // why others, or all, do not

	PerSecond      spread             `json:"perSecond"`
	P50            spread             `json:"p50Micros"`
	P99            spread             `json:"p99Micros"`
	PerSecondRatio spread             `json:"perSecondRatio"`
	P50Ratio       spread             `json:"p50Ratio"`
	P99Ratio       spread             `json:"p99Ratio"`
	CPU            spread             `json:"cpuSecondsPer1000"` // all processes on the path together
	CPUOf          map[string]float64 `json:"cpuSecondsPer1000Of,omitempty"`
	PeakRSS        map[string]int64   `json:"peakRSSBytes,omitempty"`

	paired  bool // with at least one round of direct
	proxies []proxy
}

type report struct {
	Machine      string        `json:"machine"`
	Envoy        string        `json:"envoy"`
	Began        time.Time     `json:"began"`
	Rounds       int           `json:"rounds"`
	Seconds      float64       `json:"seconds"`
	Summaries    []summary     `json:"summaries"`
	Measurements []measurement `json:"measurements"`
}

func (r *report) summarize(rows []*row, loads []load) {
	for _, l := range loads {
		base := map[int]measurement{}
		for _, m := range r.of(l, direct) {
			if m.Problem == "" {
				base[m.Round] = m
			}
		}
		for _, row := range rows {
			s := summary{Load: l.String(), Row: row.name, proxies: row.proxies}
			if row.absent != nil {
				s.Problem = row.absent.Error()
			} else {
				s.fill(r.of(l, row.name), base)
			}
			r.Summaries = append(r.Summaries, s)
		}
	}
}

func (r *report) of(l load, row string) (out []measurement) {
	for _, m := range r.Measurements {
		if m.Load == l.String() && m.Row == row {
			out = append(out, m)
		}
	}
	return out
}

func (s *summary) fill(all []measurement, base map[int]measurement) {
	var counted []measurement
	for _, m := range all {
		switch {
		case m.Problem != "":
			s.Problem = m.Problem
		case m.Requests == 0:
			s.Problem = "no request was answered"
		default:
			counted = append(counted, m)
		}
	}
	s.Rounds = len(counted)
	s.PerSecond = over(counted, func(m measurement) float64 { return m.PerSecond })
	s.P50 = over(counted, func(m measurement) float64 { return m.P50 })
	s.P99 = over(counted, func(m measurement) float64 { return m.P99 })
	paired := slices.DeleteFunc(slices.Clone(counted), func(m measurement) bool { return base[m.Round].Requests == 0 })
	s.paired = len(paired) > 0
	s.PerSecondRatio = over(paired, func(m measurement) float64 { return m.PerSecond / base[m.Round].PerSecond })
	s.P50Ratio = over(paired, func(m measurement) float64 { return m.P50 / base[m.Round].P50 })
	s.P99Ratio = over(paired, func(m measurement) float64 { return m.P99 / base[m.Round].P99 })
	s.costs(counted)
}

func (s *summary) costs(counted []measurement) {
	s.CPUOf, s.PeakRSS = map[string]float64{}, map[string]int64{}
	per1000 := func(m measurement, name string) float64 {
		return m.Used[name].CPUSeconds / float64(m.Requests) * 1000
	}
	s.CPU = over(counted, func(m measurement) (sum float64) {
		for _, p := range s.proxies {
			sum += per1000(m, p.name)
		}
		return sum
	})
	for _, p := range s.proxies {
		s.CPUOf[p.name] = over(counted, func(m measurement) float64 { return per1000(m, p.name) }).Median
		for _, m := range counted {
			s.PeakRSS[p.name] = max(s.PeakRSS[p.name], m.Used[p.name].PeakRSS)
		}
	}
}

func over(all []measurement, of func(measurement) float64) spread {
	if len(all) == 0 {
		return spread{}
	}
	var values []float64
	for _, m := range all {
		values = append(values, of(m))
	}
	slices.Sort(values)
	n := len(values)
	return spread{(values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]}
}

func (r *report) writeJSON(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *report) writeTable(out io.Writer) error {
	_, _ = fmt.Fprintf(out, "%s\nEnvoy %s\n%s, %d rounds of %g s; medians, and ratios to direct with their smallest and largest round\n\n",
		r.Machine, r.Envoy, r.Began.Format(time.RFC3339), r.Rounds, r.Seconds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "LOAD\tROW\tREQ/S\t× DIRECT\tP50\t× DIRECT\tP99\t× DIRECT\tCPU s/1000 REQ")
	for _, s := range r.Summaries {
		_, _ = fmt.Fprintln(w, s.line())
	}
	_, _ = fmt.Fprintln(w, "\nLOAD\tROW\tCPU s/1000 REQ OF EACH\tPEAK RSS OF EACH")
	for _, s := range r.Summaries {
		if s.Rounds > 0 && len(s.proxies) > 0 {
			_, _ = fmt.Fprintln(w, s.costLine())
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, "\nenvoy plain has no TLS and no second or third hop: it does less work than the other rows but direct.\n"+
		"warren l4 and waypoint keep a record of each connection or request, envoy keeps none.\n")
	return err
}

func (s *summary) line() string {
	if s.Rounds == 0 {
		return fmt.Sprintf("%s\t%s\tnot measured: %s", s.Load, s.Row, strings.Join(strings.Fields(cmp.Or(s.Problem, "no round")), " "))
	}
	cpu := "-"
	if len(s.proxies) > 0 {
		cpu = fmt.Sprintf("%.3f", s.CPU.Median)
	}
	line := fmt.Sprintf("%s\t%s\t%.0f\t%s\t%s\t%s\t%s\t%s\t%s", s.Load, s.Row, s.PerSecond.Median, s.ratio(s.PerSecondRatio),
		latency(s.P50.Median), s.ratio(s.P50Ratio), latency(s.P99.Median), s.ratio(s.P99Ratio), cpu)
	if s.Problem != "" {
		line += fmt.Sprintf("\tonly %d rounds: %s", s.Rounds, strings.Join(strings.Fields(s.Problem), " "))
	}
	return line
}

func (s *summary) ratio(r spread) string {
	if !s.paired {
		return "-"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Min, r.Max)
}

func (s *summary) costLine() string {
	var cpu, rss []string
	for _, p := range s.proxies {
		cpu = append(cpu, fmt.Sprintf("%s %.3f", p.name, s.CPUOf[p.name]))
		rss = append(rss, fmt.Sprintf("%s %.0f MiB", p.name, float64(s.PeakRSS[p.name])/(1<<20)))
	}
	return s.Load + "\t" + s.Row + "\t" + strings.Join(cpu, ", ") + "\t" + strings.Join(rss, ", ")
}

func latency(micros float64) string {
	return time.Duration(micros * float64(time.Microsecond)).Round(time.Microsecond).String()
}
