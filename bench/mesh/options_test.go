package main

import (
	"slices"
	"strings"
	"testing"
)

func TestOnlyIsANameOrABeginning(t *testing.T) {
	for only, want := range map[string][]string{
		"":                             rowNames(),
		"envoy":                        {envoyRow}, // a row's name, though another one begins with it
		"env":                          {envoyRow, connectRow},
		"warren same node":             {warrenNear},
		"warren same node accelerated": {warrenFast},
		"warren":                       {warrenNear, warrenFast, warrenTLS, warrenFar, warrenWay},
	} {
		o := options{}
		if only != "" {
			o.only = []string{only}
		}
		if err := o.checkOnly(); err != nil {
			t.Errorf("%q: %v", only, err)
		}
		if got := slices.DeleteFunc(rowNames(), func(r string) bool { return !o.wants(r) }); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", only, got, want)
		}
	}
	for _, only := range []string{"", "linkerd", "warren same node twice"} {
		if err := (&options{only: []string{only}}).checkOnly(); err == nil {
			t.Errorf("%q is taken for a row", only)
		}
	}
}

func TestScenarios(t *testing.T) {
	all, err := choose(nil, true, 100)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range all {
		if seen[s.Name] || len(s.Columns) == 0 || s.Per == "" || strings.ContainsAny(s.Name, " /,=") {
			t.Errorf("%q: twice, without columns, or no name for a file and benchstat", s.Name)
		}
		seen[s.Name] = true
	}
	quick, _ := choose(nil, false, 100)
	if len(quick) < 5 || len(quick) >= len(all) {
		t.Errorf("%d of %d scenarios are quick", len(quick), len(all))
	}
	if one, err := choose([]string{"idle"}, false, 100); err != nil || len(one) != 1 || one[0].job.Connections != 100 {
		t.Errorf("%v, %v", one, err)
	}
	if _, err := choose([]string{"sleep"}, false, 100); err == nil {
		t.Error("sleep is no scenario")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := options{rounds: 1, seconds: 1, output: "table"}
	for name, spoil := range map[string]func(*options){
		"rounds": func(o *options) { o.rounds = 0 }, "seconds": func(o *options) { o.seconds = 0 },
		"output": func(o *options) { o.output = "xml" }, "scenario": func(o *options) { o.scenarios = []string{"x"} },
		"only": func(o *options) { o.only = []string{"x"} },
	} {
		o := good
		spoil(&o)
		if err := o.check(); err == nil || !strings.Contains(err.Error(), "--"+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := good.check(); err != nil {
		t.Error(err)
	}
}
