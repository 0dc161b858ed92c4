package manifest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

// The first line of every file in testdata/routes.txtar is "# " and the error without the file's name.
func TestBadRoutesAreRejectedByLineAndField(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/routes.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		t.Run(f.Name, func(t *testing.T) {
			first, _, _ := bytes.Cut(f.Data, []byte("\n"))
			want := f.Name + ":" + strings.TrimPrefix(string(first), "# ")
			if _, _, err := Parse(f.Name, f.Data); err == nil || err.Error() != want {
				t.Fatalf("got  %v\nwant %s", err, want)
			}
		})
	}
}

const foreignRoute = `{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "a"},
	"spec": {"parentRefs": [{"name": "ingress"}], "rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "(?=x)"}}],
	"filters": [{"type": "Vendor"}]}]}}`

// What another controller makes of its routes is its business.
func TestRoutesOfOtherControllersAreNotChecked(t *testing.T) {
	objects, _, err := Parse("f.yaml", []byte(foreignRoute))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%v, %v", objects, err)
	}
}

// An API server may know fields that this version does not: the schema is not ours to enforce there, in a file it is.
func TestFieldsOfLaterVersionsAreTakenFromAnAPIServerOnly(t *testing.T) {
	later := []byte(strings.Replace(foreignRoute, `"spec": {`, `"spec": {"newer": 1, `, 1))
	if _, err := ParseServed("kubernetes", later); err != nil {
		t.Error(err)
	}
	if _, _, err := Parse("f.yaml", later); err == nil || !strings.Contains(err.Error(), "spec.newer: unknown field") {
		t.Error(err)
	}
	ours := []byte(`{"apiVersion": "warren.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": "r", "namespace": "a"}, "spec": {"newer": 1}}`)
	if _, err := ParseServed("kubernetes", ours); err == nil || !strings.Contains(err.Error(), "spec.newer: unknown field") {
		t.Errorf("one of our own kinds: %v", err)
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "10s": 10 * time.Second, "1h30m": 90 * time.Minute, "500ms": 500 * time.Millisecond,
		"1h2m3s4ms": time.Hour + 2*time.Minute + 3*time.Second + 4*time.Millisecond, "99999h": 99_999 * time.Hour,
	} {
		var d Duration
		if err := json.Unmarshal([]byte(`"`+text+`"`), &d); err != nil || time.Duration(d) != want {
			t.Errorf("%q is %v, %v; want %v", text, time.Duration(d), err, want)
		}
	}
	for _, text := range []string{"", "1", "s", "1.5s", "-1s", "1d", "100000s", "1s1s1s1s1s", "99999h1h", " 1s", "1us"} {
		var d Duration
		if err := json.Unmarshal([]byte(`"`+text+`"`), &d); err == nil {
			t.Errorf("%q is taken for %v", text, time.Duration(d))
		}
	}
}

func TestLabelSelector(t *testing.T) {
	labels := map[string]string{"team": "a", "tier": "front"}
	for want, selectors := range map[bool][]LabelSelector{
		true: {
			{}, {MatchLabels: map[string]string{"team": "a"}},
			{MatchExpressions: []LabelRequirement{{"team", "In", []string{"b", "a"}}, {"x", "DoesNotExist", nil}, {"tier", "Exists", nil}, {"tier", "NotIn", []string{"back"}}}},
		},
		false: {
			{MatchLabels: map[string]string{"team": "b"}}, {MatchLabels: map[string]string{"none": ""}},
			{MatchExpressions: []LabelRequirement{{"team", "In", nil}}}, {MatchExpressions: []LabelRequirement{{"team", "Like", []string{"a"}}}},
		},
	} {
		for _, s := range selectors {
			if s.Matches(labels) != want {
				t.Errorf("%+v selects %v: %v", s, labels, !want)
			}
		}
	}
}
