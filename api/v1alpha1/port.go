package v1alpha1

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Port is a port number. Istio writes it as a string; a number is accepted too.
type Port string

// UnmarshalJSON accepts "8080" and 8080.
func (p *Port) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err == nil {
		*p = Port(s)
		return nil
	}
	var n int64
	if err := json.Unmarshal(data, &n); err != nil {
		return fmt.Errorf("want a port number, got %s", data)
	}
	*p = Port(strconv.FormatInt(n, 10))
	return nil
}

// Number returns the port's number.
// Returns an error if it is not a decimal number from 1 to 65535 without leading zeros.
func (p Port) Number() (uint16, error) {
	n, err := strconv.ParseUint(string(p), 10, 16)
	if err != nil || p[0] == '0' {
		return 0, fmt.Errorf("want a port number from 1 to 65535, got %q", string(p))
	}
	return uint16(n), nil
}
