package netconf

import (
	"reflect"
	"strings"
	"testing"
)

func TestWhatTheAgentWritesThePluginReads(t *testing.T) {
	want := Conf{Socket: "/run/x/a.sock", Log: "/run/x/cni.log", AgentAbsent: Allow, ExemptNamespaces: []string{"kube-system", "storage"}}
	raw, err := want.Entry()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %+v (%v), want %+v", raw, got, err, want)
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte(`{"type":"warren-cni","cniVersion":"1.0.0","name":"n"}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Socket != DefaultSocket || c.AgentAbsent != Deny || !c.Exempt("kube-system") || !c.Exempt("warren-system") || c.Exempt("shop") {
		t.Errorf("%+v", c)
	}
	if raw, _ := (Conf{}).Entry(); string(raw) != `{"type":"warren-cni"}` {
		t.Errorf("entry of nothing: %s", raw)
	}
}

func TestMistakesNameTheField(t *testing.T) {
	for conf, want := range map[string]string{
		`{"type":"other"}`: "type",
		`{"type":"warren-cni","socket":"agent.sock"}`:                        "socket",
		`{"type":"warren-cni","socket":"/x\u0000y"}`:                         "socket",
		`{"type":"warren-cni","log":"../x"}`:                                 "log",
		`{"type":"warren-cni","agentAbsent":"open"}`:                         "agentAbsent",
		`{"type":"warren-cni","exemptNamespaces":[""]}`:                      "exemptNamespaces",
		`{"type":"warren-cni","exemptNamespaces":"shop"}`:                    "exemptNamespaces",
		`{"type":"warren-cni","socket":"/` + strings.Repeat("x", 107) + `"}`: "socket",
		`{`: "configuration",
	} {
		if _, err := Parse([]byte(conf)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want a word on %s", conf, err, want)
		}
	}
	many := Conf{ExemptNamespaces: make([]string, maxExempt+1)}
	if _, err := many.Entry(); err == nil || !strings.Contains(err.Error(), "exemptNamespaces") {
		t.Errorf("too many namespaces: %v", err)
	}
}
