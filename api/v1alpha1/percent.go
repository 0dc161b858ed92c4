package v1alpha1

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Percent is a part of a hundred: a whole number, or a string with up to two digits behind the point. API servers keep
// no fractions but in strings.
type Percent string

// UnmarshalJSON accepts 5, "5" and "0.25".
func (p *Percent) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err == nil {
		*p = Percent(s)
		return nil
	}
	var n int64
	if err := json.Unmarshal(data, &n); err != nil {
		return fmt.Errorf("want a whole number, or a string such as \"0.5\", got %s", data)
	}
	*p = Percent(strconv.FormatInt(n, 10))
	return nil
}

// PerMyriad returns how many of ten thousand that is.
// Returns an error if it is not 0 to 100 with at most two digits behind the point.
func (p Percent) PerMyriad() (uint32, error) {
	whole, rest, point := strings.Cut(string(p), ".")
	n, err := strconv.ParseUint(whole, 10, 8)
	if err != nil || len(whole) > 2 && whole != "100" || point && (rest == "" || len(rest) > 2) {
		return 0, fmt.Errorf("want 0 to 100 per cent with at most two digits behind the point, got %q", string(p))
	}
	hundredths, err := strconv.ParseUint((rest + "00")[:2], 10, 8)
	if total := uint32(100*n + hundredths); err == nil && total <= 10_000 {
		return total, nil
	}
	return 0, fmt.Errorf("want 0 to 100 per cent with at most two digits behind the point, got %q", string(p))
}
