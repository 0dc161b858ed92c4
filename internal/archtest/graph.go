// Package archtest holds the project's rules about its own source, which tests check: who may import whom, what no file
// may contain, and how long things may get.
package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the path under which the packages below are imported.
const Module = "github.com/warren-mesh/warren"

// Package is one package and what its non-test files import.
type Package struct {
	Path    string // relative to Module, "" for its root
	Imports []string
}

// Rule says what the packages in and below a directory may import, beside the standard library and what is in and below
// the same directory. Every name means the package and what is below it.
type Rule struct {
	Of    string
	May   []string // other packages, ours relative to Module with a leading "./"
	Never []string // exceptions from May
}

// CheckImports returns a sentence for each import that no rule allows, and for each package without a rule. The rule
// with the longest directory counts.
func CheckImports(rules []Rule, packages []Package) (violations []string) {
	for _, p := range packages {
		rule, ok := ruleFor(rules, p.Path)
		if !ok {
			violations = append(violations, fmt.Sprintf("%s: no rule says what it may import", p.Path))
			continue
		}
		for _, imp := range p.Imports {
			name := local(imp)
			if isStandard(imp) || within(name, "./"+rule.Of) {
				continue
			}
			allowed := slices.ContainsFunc(rule.May, func(may string) bool { return within(name, may) })
			denied := slices.ContainsFunc(rule.Never, func(never string) bool { return within(name, never) })
			if !allowed || denied {
				violations = append(violations, fmt.Sprintf("%s imports %s, which %s may not", p.Path, imp, rule.Of))
			}
		}
	}
	return violations
}

func ruleFor(rules []Rule, path string) (best Rule, ok bool) {
	for _, r := range rules {
		if within(path, r.Of) && (!ok || len(r.Of) > len(best.Of)) {
			best, ok = r, true
		}
	}
	return best, ok
}

// local turns an import of ours into "./path".
func local(imp string) string {
	if rest, ok := strings.CutPrefix(imp, Module+"/"); ok {
		return "./" + rest
	}
	return imp
}

func within(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }

func isStandard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}
