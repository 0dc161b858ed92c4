package identity

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var malformedIDs = []string{
	"", "spiffe://", "spiffe://mesh", "spiffe://mesh/", "mesh/ns/a/sa/b", "http://mesh/ns/a/sa/b", "SPIFFE://mesh/ns/a/sa/b",
	"spiffe://MESH/ns/a/sa/b", "spiffe://mesh/ns/a/sa/b/", "spiffe://mesh//ns/a/sa/b", "spiffe://mesh/ns//sa/b", "spiffe://mesh/ns/a/sa/",
	"spiffe://mesh/ns/../sa/b", "spiffe://mesh/ns/./sa/b", "spiffe://mesh/ns/a/sa/..", "spiffe://mesh/ns/a%2fb/sa/c", "spiffe://mesh/ns/a/sa/b%00",
	"spiffe://mesh/ns/a/sa/b\x00", "spiffe://mesh/ns/a/sa/b?x", "spiffe://mesh/ns/a/sa/b#", "spiffe://user@mesh/ns/a/sa/b", "spiffe://mesh:80/ns/a/sa/b",
	"spiffe://mesh/ns/A/sa/b", "spiffe://mesh/ns/a.b/sa/c", "spiffe://mesh/ns/-a/sa/b", "spiffe://mesh/ns/a/sa/b-", "spiffe://mesh/ns/a/sa/b..c",
	"spiffe://mesh/ns/a_b/sa/c", "spiffe://mesh/sa/a/ns/b", "spiffe://mesh/ns/a/sa/b/x/y", "spiffe://mesh/node/a", "spiffe://mesh/ns/ä/sa/b", " spiffe://mesh/ns/a/sa/b",
	"spiffe://mesh/ns/" + strings.Repeat("a", 64) + "/sa/b", "spiffe://mesh/ns/a/sa/" + strings.Repeat("b", 254),
	"spiffe://a..b/ns/a/sa/b", "spiffe://.mesh/ns/a/sa/b", "spiffe://mesh./ns/a/sa/b",
	"spiffe://" + strings.Repeat("m", 256) + "/ns/a/sa/b",
}

func TestParseTakesOnlyTheCanonicalForm(t *testing.T) {
	for _, s := range malformedIDs {
		if id, err := Parse(s); !errors.Is(err, ErrMalformed) || !id.IsZero() {
			t.Errorf("Parse(%q) = %v, %v", s, id, err)
		}
	}
	id, err := Parse("spiffe://mesh.example/ns/shop-1/sa/web.v2")
	if err != nil {
		t.Fatal(err)
	}
	if id.TrustDomain() != "mesh.example" || id.Namespace() != "shop-1" || id.ServiceAccount() != "web.v2" ||
		id.Principal() != "mesh.example/ns/shop-1/sa/web.v2" {
		t.Errorf("Parse = %+v", id)
	}
	if (ID{}).String() != "" || (ID{}).Principal() != "" || !(ID{}).IsZero() || id.IsZero() {
		t.Error("the zero ID is somebody")
	}
}

func TestNewRefusesEachBadPart(t *testing.T) {
	for _, p := range [][3]string{{"", "a", "b"}, {"Mesh", "a", "b"}, {"spiffe://mesh", "a", "b"}, {"mesh", "", "b"}, {"mesh", "a/b", "c"}, {"mesh", "a", ""}, {"mesh", "a", "b/c"}} {
		if id, err := New(p[0], p[1], p[2]); !errors.Is(err, ErrMalformed) {
			t.Errorf("New(%q) = %v, %v", p, id, err)
		}
	}
}

func TestAgentIDs(t *testing.T) {
	for _, s := range []string{"spiffe://mesh/node/n1", "spiffe://mesh/node/ip-10-0-0-1.eu.example", "spiffe://mesh/controller"} {
		if id, err := ParseAgent(s); err != nil || id.String() != s {
			t.Errorf("ParseAgent(%q) = %v, %v", s, id, err)
		}
	}
	bad := append([]string{"spiffe://mesh/node/", "spiffe://mesh/node/a/b", "spiffe://mesh/node/A", "spiffe://mesh/nodes/a", "spiffe://mesh/controller/",
		"spiffe://mesh/controller/x", "spiffe://mesh/ns/a/sa/b", "spiffe://mesh/node/..", "spiffe://mesh/node/a%62"}, malformedIDs...)
	for _, s := range bad {
		if s == "spiffe://mesh/node/a" {
			continue // malformed as a workload's only
		}
		if id, err := ParseAgent(s); !errors.Is(err, ErrMalformed) || id.String() != "" {
			t.Errorf("ParseAgent(%q) = %v, %v", s, id, err)
		}
	}
	if td, node, err := ParseNode(NodeSPIFFE("mesh", "n1")); td != "mesh" || node != "n1" || err != nil {
		t.Errorf("ParseNode = %q, %q, %v", td, node, err)
	}
	if _, _, err := ParseNode(ControllerSPIFFE("mesh")); !errors.Is(err, ErrMalformed) {
		t.Errorf("ParseNode of the controller's = %v", err)
	}
	if c, err := ControllerID("mesh"); err != nil || !c.IsController() || c.Node() != "" || c.TrustDomain() != "mesh" {
		t.Errorf("ControllerID = %+v, %v", c, err)
	}
	if (AgentID{}).IsController() {
		t.Error("the zero AgentID is the controller")
	}
	if _, err := NodeID("Mesh", "n1"); !errors.Is(err, ErrMalformed) {
		t.Errorf("NodeID = %v", err)
	}
}

// FuzzParseID: what is accepted is printed as it was read, and is never both a workload's and an agent's.
func FuzzParseID(f *testing.F) {
	f.Add("spiffe://mesh/ns/shop/sa/web")
	f.Add("spiffe://mesh/node/n1")
	f.Add("spiffe://mesh/controller")
	for _, s := range malformedIDs {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err == nil {
			again, err := New(id.TrustDomain(), id.Namespace(), id.ServiceAccount())
			if id.String() != s || again != id || err != nil || strings.ContainsAny(s, "%?#@ \x00ABC") || strings.Contains(s, "..") {
				t.Fatalf("Parse(%q) = %+v", s, id)
			}
		} else if !errors.Is(err, ErrMalformed) || !id.IsZero() || strings.ContainsAny(err.Error(), "\x00\n\r\x1b") {
			t.Fatalf("Parse(%q) = %+v, %q", s, id, err)
		}
		agent, agentErr := ParseAgent(s)
		if agentErr == nil && (agent.String() != s || err == nil) {
			t.Fatalf("ParseAgent(%q) = %+v", s, agent)
		}
	})
}

// TestTrustDomainsAreCheckedAsSPIFFESays: by what go-spiffe says of every byte and some shapes; empty labels are ours to refuse.
func TestTrustDomainsAreCheckedAsSPIFFESays(t *testing.T) {
	names := []string{"", "cluster.local", "a_b-c.d", "spiffe://a", "a/b", "a:1", "a@b", "Ab", "ä", strings.Repeat("a", 255), strings.Repeat("a", 256)}
	for b := range 256 {
		names = append(names, string([]byte{byte(b)}), string([]byte{'a', byte(b), 'z'}))
	}
	for _, name := range names {
		td, err := spiffeid.TrustDomainFromString(name)
		want := err == nil && td.Name() == name && len(name) <= 255 && !strings.Contains("."+name+".", "..")
		if got := checkTrustDomain(name) == nil; got != want {
			t.Errorf("trust domain %q is taken: %t, want %t (%v)", name, got, want, err)
		}
	}
}
