package v1alpha1

import (
	"encoding/json"
	"testing"
)

func TestPercent(t *testing.T) {
	for text, want := range map[string]uint32{`0`: 0, `100`: 10_000, `"100.00"`: 10_000, `"0.5"`: 50, `"0.05"`: 5, `"12.34"`: 1234, `7`: 700} {
		var p Percent
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got, err := p.PerMyriad(); err != nil || got != want {
			t.Errorf("%s is %d of 10,000, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{`"101"`, `"100.01"`, `-1`, `"0.123"`, `"1."`, `".5"`, `"5%"`, `""`, `"+5"`, `"0.-1"`, `300`, `"007"`, `"1e2"`} {
		var p Percent
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got, err := p.PerMyriad(); err == nil {
			t.Errorf("%s is taken for %d of 10,000", text, got)
		}
	}
	for _, text := range []string{`0.5`, `true`, `{}`} {
		var p Percent
		if err := json.Unmarshal([]byte(text), &p); err == nil {
			t.Errorf("%s is taken for %q", text, p)
		}
	}
}
