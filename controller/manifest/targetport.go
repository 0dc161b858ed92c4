package manifest

import (
	"encoding/json"
	"fmt"
)

// TargetPort is a port's number or name; both empty means "the service's port".
type TargetPort struct {
	Number uint16
	Name   string
}

// UnmarshalJSON accepts 8080 and "http".
func (t *TargetPort) UnmarshalJSON(data []byte) error {
	var name string
	if err := json.Unmarshal(data, &name); err == nil {
		if name == "" || len(name) > 63 {
			return fmt.Errorf("want a port's number or name, got %q", name)
		}
		*t = TargetPort{Name: name}
		return nil
	}
	var n int64
	if err := json.Unmarshal(data, &n); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("want a port from 1 to 65535 or a port's name, got %s", data)
	}
	*t = TargetPort{Number: uint16(n)}
	return nil
}
