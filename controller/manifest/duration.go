package manifest

import (
	"encoding/json"
	"fmt"
	"time"
)

// maxDuration is the longest that the Gateway API can say: a little more than eleven years and four months.
const maxDuration = 99_999 * time.Hour

// Duration is a length of time as the Gateway API writes it (GEP-2257): whole numbers of h, m, s and ms.
type Duration time.Duration

// UnmarshalJSON accepts "1h30m", "10s" and "0s".
func (v *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("want a duration such as 10s, got %s", data)
	}
	total, rest := time.Duration(0), s
	for n := 0; rest != "" || n == 0; n++ {
		value, unit, tail, ok := cutDuration(rest)
		if !ok || n == 4 {
			return fmt.Errorf("want a duration of h, m, s and ms, such as 1h30m or 500ms, got %q", s)
		}
		total, rest = total+time.Duration(value)*unit, tail
	}
	if total > maxDuration {
		return fmt.Errorf("want at most %s, got %q", maxDuration, s)
	}
	*v = Duration(total)
	return nil
}

// cutDuration takes one to five digits and a unit off the front of s.
func cutDuration(s string) (value int, unit time.Duration, tail string, ok bool) {
	digits := 0
	for digits < len(s) && s[digits] >= '0' && s[digits] <= '9' && digits < 6 {
		value = 10*value + int(s[digits]-'0')
		digits++
	}
	if digits == 0 || digits > 5 {
		return 0, 0, "", false
	}
	s = s[digits:]
	switch {
	case len(s) >= 2 && s[:2] == "ms":
		return value, time.Millisecond, s[2:], true
	case len(s) >= 1 && s[0] == 'h':
		return value, time.Hour, s[1:], true
	case len(s) >= 1 && s[0] == 'm':
		return value, time.Minute, s[1:], true
	case len(s) >= 1 && s[0] == 's':
		return value, time.Second, s[1:], true
	}
	return 0, 0, "", false
}
