package v1alpha1

import (
	"encoding/json"
	"testing"
)

func TestPortIsAStringOrANumber(t *testing.T) {
	var op Operation
	if err := json.Unmarshal([]byte(`{"ports":["8080",9090]}`), &op); err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint16{8080, 9090} {
		if got, err := op.Ports[i].Number(); err != nil || got != want {
			t.Errorf("port %d = %d, %v; want %d", i, got, err, want)
		}
	}
}

func TestPortRefusesWhatIsNoPort(t *testing.T) {
	for _, s := range []string{"0", "65536", "-1", "http", "", "80.5", "+80"} {
		if n, err := Port(s).Number(); err == nil {
			t.Errorf("Port(%q) = %d, want an error", s, n)
		}
	}
	for _, s := range []string{`true`, `1.5`, `{}`} {
		var p Port
		if err := json.Unmarshal([]byte(s), &p); err == nil {
			t.Errorf("%s was accepted as port %q", s, p)
		}
	}
}
