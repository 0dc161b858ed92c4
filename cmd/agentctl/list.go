package main

import (
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/spf13/cobra"
)

// filter is the NAME argument and the -n flag that lists share.
type filter struct {
	namespace string
	name      string
}

// newFilter reads the optional NAME: "name", "namespace/name", either with * as in a shell.
func newFilter(namespace string, args []string) (filter, error) {
	f := filter{namespace: namespace}
	if len(args) == 0 {
		return f, nil
	}
	f.name = args[0]
	if ns, name, ok := strings.Cut(args[0], "/"); ok {
		if namespace != "" && namespace != ns {
			return f, usagef("leave out one of them", "NAME is in namespace %q but -n says %q", ns, namespace)
		}
		f.namespace, f.name = ns, name
	}
	if _, err := path.Match(f.name, ""); err != nil {
		return f, usagef("use * and ? as in a shell", "%q is not a pattern", f.name)
	}
	return f, nil
}

// match says whether an object is asked for.
func (f filter) match(namespace, name string) bool {
	if f.namespace != "" && f.namespace != namespace {
		return false
	}
	if f.name == "" {
		return true
	}
	ok, _ := path.Match(f.name, name)
	return ok
}

// keep returns the items that match, ordered by namespace and name.
func keep[T any](f filter, items []T, key func(T) (namespace, name string)) []T {
	var kept []T
	for _, item := range items {
		if f.match(key(item)) {
			kept = append(kept, item)
		}
	}
	sort.SliceStable(kept, func(i, j int) bool {
		in, iname := key(kept[i])
		jn, jname := key(kept[j])
		if in != jn {
			return in < jn
		}
		return iname < jname
	})
	return kept
}

// nothing reports an empty list: an error if a NAME was asked for, a remark on stderr if there just is nothing.
func (a *app) nothing(f filter, cmd *cobra.Command, things string) error {
	where := ""
	if f.namespace != "" {
		where = fmt.Sprintf(" in namespace %q", f.namespace)
	}
	if f.name != "" {
		return &failure{
			text: fmt.Sprintf("no %s named %q%s", things, f.name, where),
			hint: "see all: " + cmd.CommandPath(),
		}
	}
	fmt.Fprintf(a.stderr, "No %s%s.\n", things, clean(where))
	return nil
}
