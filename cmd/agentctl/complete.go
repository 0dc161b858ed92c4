package main

import (
	"context"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// completionTimeout is how long the shell may hang on a key press.
const completionTimeout = time.Second

// completer is the signature of cobra's dynamic completions.
type completer = func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective)

func (a *app) completeLabs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.labNames(), cobra.ShellCompDirectiveNoFileComp
}

// completeNamespaces offers the namespaces that have workloads.
func (a *app) completeNamespaces(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.workloadNames(cmd.Context(), func(w *adminv1.WorkloadInfo) string { return w.Namespace }),
		cobra.ShellCompDirectiveNoFileComp
}

// completePods offers "namespace/pod" for the first max arguments (or for a flag's value, with max -1).
func (a *app) completePods(max int) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if max >= 0 && len(args) >= max {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.workloadNames(cmd.Context(), func(w *adminv1.WorkloadInfo) string { return w.Namespace + "/" + w.Name }),
			cobra.ShellCompDirectiveNoFileComp
	}
}

// workloadNames asks for the workloads and returns the distinct names. Errors offer nothing: the shell has no place
// to show them.
func (a *app) workloadNames(ctx context.Context, name func(*adminv1.WorkloadInfo) string) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	reply, err := ask(ctx, a, adminv1.AdminClient.Workloads, &adminv1.ListRequest{})
	if err != nil {
		return nil
	}
	seen := make(map[string]bool)
	var names []string
	for _, w := range reply.Workloads {
		// A name with a control character is not worth completing.
		if n := name(w); !seen[n] && n == clean(n) && !strings.ContainsAny(n, " \t") {
			seen[n] = true
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names
}

// namespaceFlag adds -n with completion.
func (a *app) namespaceFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVarP(into, "namespace", "n", "", "only this namespace (default all)")
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
}
