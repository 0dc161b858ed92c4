package observe

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/warren-mesh/warren/ztunnel"
)

// TestForeignTextForgesNoLogLine: whatever of a record a peer could influence stays inside its own field of one line,
// and no part of it becomes a metric's label.
func TestForeignTextForgesNoLogLine(t *testing.T) {
	const evil = "x\nlevel=ERROR msg=forged\r\n\x00\x1b[2J\x9b\x7f\u2028\" verdict=forwarded {}"
	now := time.Now()
	record := ztunnel.Record{
		ID: evil, Reporter: ztunnel.Inbound, Verdict: ztunnel.Denied, Reason: ztunnel.ReasonTLS, Security: ztunnel.MutualTLS,
		Src:     ztunnel.Party{Addr: netip.MustParseAddrPort("10.0.0.1:1")},
		Service: evil, Rule: evil, Detail: evil, Audit: evil, Start: now, End: now,
	}
	for format, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		t.Run(format, func(t *testing.T) {
			var out bytes.Buffer
			reg := prometheus.NewRegistry()
			New("n1", slog.New(handler(&out)), reg).Sink(record)
			line, rest, _ := strings.Cut(out.String(), "\n")
			if rest != "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == '\u2028' }) {
				t.Errorf("the log is not one printable line: %q", out.String())
			}
			var fields map[string]any
			switch {
			case format == "json" && json.Unmarshal([]byte(line), &fields) != nil:
				t.Errorf("it is no JSON: %s", line)
			case format == "json" && fields["verdict"] != "denied":
				t.Errorf("the verdict is %v", fields["verdict"])
			case format == "text" && (strings.Count(line, " verdict=denied") != 1 || strings.Contains(line, "msg=forged\n")):
				t.Errorf("the verdict is forged: %s", line)
			}
			families, err := reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if strings.Contains(f.String(), "forged") {
					t.Errorf("foreign text is in metric %s", f.GetName())
				}
			}
		})
	}
}
