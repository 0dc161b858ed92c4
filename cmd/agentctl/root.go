package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/internal/cluster"
)

const rootLong = `agentctl shows what the Warren mesh does, and says why.

It asks the controller, or the agent of one node: at the unix socket that --socket or $WARREN_SOCKET names, else the
controller of the only running lab (--lab picks one of several), else /run/warren/controller.sock, else
/run/warren/agent.sock, else the controller in the cluster of the kubeconfig, through the API server. --kubeconfig or
--context asks the cluster in any case. A controller answers for the whole mesh, an agent for its node.

Exit codes: 0 all is well or the answer is yes, 1 an error, 2 a mistake in the command line, 3 the answer is no or
problems were found.`

// app is one run of agentctl: the outside world and the flags that every command has.
type app struct {
	env
	socket string
	lab    string
	kube   kubeFlags
	// asked is the cluster that the last request went to, if it was one.
	asked   *cluster.Cluster
	color   choice
	timeout time.Duration
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, e env, args []string) int {
	a := &app{env: e}
	root := a.rootCommand()
	root.SetArgs(args)
	return a.report(root.ExecuteContext(ctx))
}

// rootCommand builds the tree of commands.
func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "agentctl",
		Short: "See what the mesh does, and why",
		Long:  rootLong,
		Example: `  agentctl status                                   what is wrong, then controller, nodes and pods
  agentctl flows -f --verdict denied                watch connections being refused
  agentctl why shop/web payments.shop:8080          find the step at which a connection fails
  agentctl authz can --from shop/web --to shop/payments:8080`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          helpOrUnknown,

		SuggestionsMinimumDistance: 2,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("see: "+cmd.CommandPath()+" --help", "%s", err)
	})
	a.globalFlags(root)
	root.AddGroup(
		&cobra.Group{ID: groupSee, Title: "See:"},
		&cobra.Group{ID: groupAsk, Title: "Ask why:"},
		&cobra.Group{ID: groupRun, Title: "On Kubernetes:"},
		&cobra.Group{ID: groupMore, Title: "More:"},
	)
	a.addCommands(root)
	return root
}

// The groups that help sorts commands into.
const (
	groupSee  = "see"
	groupAsk  = "ask"
	groupRun  = "run"
	groupMore = "more"
)

func (a *app) addCommands(root *cobra.Command) {
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupSee, a.statusCommand(), a.flowsCommand(), a.connectionsCommand(), a.workloadsCommand(),
		a.servicesCommand(), a.policiesCommand(), a.certsCommand())
	add(groupAsk, a.checkCommand(), a.whyCommand(), a.authzCommand(), a.waitCommand())
	add(groupRun, a.installCommand(), a.upgradeCommand(), a.uninstallCommand(), a.waypointCommand(),
		a.caCommand(), a.bugReportCommand())
	add(groupMore, labCommand(a.stdout, a.stderr, a.stdin), a.versionCommand())
	root.SetHelpCommandGroupID(groupMore)
	root.SetCompletionCommandGroupID(groupMore)
}

func (a *app) globalFlags(root *cobra.Command) {
	a.color = newChoice("auto", "auto", "always", "never")
	f := root.PersistentFlags()
	f.StringVar(&a.socket, "socket", "", "unix socket of a controller or an agent (default $WARREN_SOCKET)")
	f.StringVar(&a.lab, "lab", "", "ask the controller of this lab")
	f.StringVar(&a.kube.kubeconfig, "kubeconfig", "", "ask the cluster of this file (default $KUBECONFIG or ~/.kube/config)")
	f.StringVar(&a.kube.context, "context", "", "ask the cluster of this context of the kubeconfig")
	f.StringVar(&a.kube.namespace, "warren-namespace", "", "namespace that Warren is in (default warren-system)")
	f.Var(&a.color, "color", "colour the output: "+a.color.Type())
	f.DurationVar(&a.timeout, "request-timeout", 10*time.Second, "how long to wait for one answer")
	_ = root.MarkPersistentFlagFilename("socket", "sock")
	_ = root.RegisterFlagCompletionFunc("color", a.color.complete)
	_ = root.RegisterFlagCompletionFunc("lab", a.completeLabs)
}

// helpOrUnknown is what a command that only has children does.
func helpOrUnknown(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	hint := "see: " + cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean: " + cmd.CommandPath() + " " + strings.Join(near, " or ")
	}
	return usagef(hint, "%s has no command %q", cmd.CommandPath(), args[0])
}

// choice is a flag that takes one of a few words.
type choice struct {
	value   string
	allowed []string
}

func newChoice(value string, allowed ...string) choice {
	return choice{value: value, allowed: allowed}
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.allowed, "|") }

// Set implements pflag.Value.
func (c *choice) Set(s string) error {
	for _, w := range c.allowed {
		if s == w {
			c.value = s
			return nil
		}
	}
	return fmt.Errorf("must be one of %s", strings.Join(c.allowed, ", "))
}

func (c *choice) complete(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return c.allowed, cobra.ShellCompDirectiveNoFileComp
}
