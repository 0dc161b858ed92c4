package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/warren-mesh/warren/lab"
)

// labExit ends agentctl with the exit code of a command that ran in a lab. Nothing more is printed.
type labExit int

func (e labExit) Error() string { return fmt.Sprintf("the command ended with exit code %d", int(e)) }

// ExitCode is what the shell sees.
func (e labExit) ExitCode() int { return int(e) }

// labCLI is the outside world of the lab commands, and their common flag.
type labCLI struct {
	out, err io.Writer
	in       io.Reader
	name     string
}

// labCommand is `agentctl lab`.
func labCommand(out, errOut io.Writer, in io.Reader) *cobra.Command {
	c := &labCLI{out: out, err: errOut, in: in}
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run a mesh of nodes and pods on this machine, from a folder of manifests",
		Long: `Run a mesh of nodes and pods on this machine. A node and a pod are network namespaces, the binaries are the real ones.
Nothing of the machine's own network is touched, and several labs can run side by side. Needs root.`,
		Example: `  agentctl lab check
  agentctl lab up -f deploy/lab/demo
  agentctl lab exec -n shop web -- sample client http://payments:8080/
  agentctl lab shell shop/web
  agentctl lab down`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&c.name, "lab", "default", "name of the lab")
	cmd.AddCommand(c.up(), c.down(), c.list(), c.exec(), c.shell(), c.apply(), c.check())
	return cmd
}

func (c *labCLI) up() *cobra.Command {
	o := lab.Options{}
	cmd := &cobra.Command{
		Use:     "up -f FOLDER",
		Example: "  agentctl lab up -f deploy/lab/demo\n  agentctl lab up --lab second -f my-mesh/",
		Short:   "Make a lab and start everything in it",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Name, o.Progress = c.name, c.progress()
			begin := time.Now()
			l, err := lab.Up(cmd.Context(), o)
			if errors.Is(err, lab.ErrExists) {
				return fmt.Errorf("%w: `agentctl lab down --lab %s` removes it, --lab NAME makes another", err, c.name)
			}
			if err != nil {
				return c.brief(err)
			}
			return c.summary(l, time.Since(begin))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Manifests, "filename", "f", "", "file or folder of Kubernetes manifests; changes to policies and labels apply at once")
	f.StringVar(&o.BinDir, "bin-dir", "", "folder of the binaries agent, controller and sample (default this one's)")
	f.StringVar(&o.TrustDomain, "trust-domain", "cluster.local", "trust domain of the mesh")
	f.BoolVar(&o.WithoutMesh, "without-mesh", false, "nodes, pods and names only: no controller and no agents")
	f.StringArrayVar(&o.AgentArgs, "agent-arg", nil, "further argument for every agent; may be repeated")
	f.StringArrayVar(&o.ControllerArgs, "controller-arg", nil, "further argument for the controller; may be repeated")
	_ = cmd.MarkFlagRequired("filename")
	return cmd
}

// progress prints a line a step, with a tick if a person watches.
func (c *labCLI) progress() func(lab.Step) {
	mark := ""
	if f, ok := c.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		mark = "✓ "
	}
	return func(s lab.Step) {
		_, _ = fmt.Fprintf(c.out, "%s%s (%s)\n", mark, s.Text, s.Took.Round(time.Millisecond))
	}
}

// brief prints all but the first line of an error, which are the ends of logs, and returns the first. No error is fine.
func (c *labCLI) brief(err error) error {
	if err == nil {
		return nil
	}
	first, rest, more := strings.Cut(err.Error(), "\n")
	if !more {
		return err
	}
	for line := range strings.Lines(rest) {
		_, _ = fmt.Fprintf(c.err, "  | %s\n", clean(strings.TrimSuffix(line, "\n")))
	}
	return errors.New(first)
}

// summary says what was made, and what to type next.
func (c *labCLI) summary(l *lab.Lab, took time.Duration) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(c.out, "\nlab %s is up after %s: %d nodes, %d pods, %d services. Logs and sockets are in %s\n\n",
		info.Name, took.Round(10*time.Millisecond), len(info.Nodes), len(info.Pods), len(info.Services), info.Dir)
	w := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "POD\tNODE\tADDRESSES")
	for _, p := range info.Pods {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", p.FullName(), p.Node, joined(p.Addrs))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	flag := ""
	if info.Name != "default" {
		flag = " --lab " + info.Name
	}
	_, _ = fmt.Fprintln(c.out, "\nNext:")
	if len(info.Pods) > 0 {
		_, _ = fmt.Fprintf(c.out, "  agentctl lab shell%s %s\n", flag, info.Pods[0].FullName())
	}
	if !info.WithoutMesh {
		_, _ = fmt.Fprintf(c.out, "  agentctl%s status\n  agentctl%s flows -f\n", flag, flag)
	}
	_, _ = fmt.Fprintf(c.out, "  agentctl lab down%s\n", flag)
	return nil
}

func joined[T fmt.Stringer](items []T) string {
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = item.String()
	}
	return strings.Join(texts, ", ")
}

func (c *labCLI) down() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "down",
		Example: "  agentctl lab down\n  agentctl lab down --lab second",
		Short:   "Remove a lab, and every trace of it",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			labs, err := lab.List()
			if err != nil {
				return err
			}
			removed := 0
			for _, s := range labs {
				if all || s.Name == c.name {
					if err := lab.Down(cmd.Context(), s.Name); err != nil {
						return c.brief(err)
					}
					removed++
					_, _ = fmt.Fprintf(c.out, "lab %s is gone\n", s.Name)
				}
			}
			if removed > 0 {
				return nil
			}
			if !all {
				// What a lab left elsewhere than in its folder goes too.
				if err := lab.Down(cmd.Context(), c.name); err != nil {
					return c.brief(err)
				}
			}
			_, _ = fmt.Fprintln(c.out, "there is no lab to remove")
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every lab on this machine")
	return cmd
}

func (c *labCLI) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Example: "  agentctl lab list",
		Aliases: []string{"ls"},
		Short:   "List the labs on this machine",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			labs, err := lab.List()
			if err != nil {
				return err
			}
			if len(labs) == 0 {
				_, _ = fmt.Fprintln(c.out, "no lab runs; start one with: agentctl lab up -f FOLDER")
				return nil
			}
			w := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
			_, _ = fmt.Fprintln(w, "NAME\tNODES\tPODS\tAGE\tMANIFESTS\tPROBLEM")
			for _, s := range labs {
				age := "-"
				if !s.Created.IsZero() {
					age = time.Since(s.Created).Round(time.Second).String()
				}
				problem := "-"
				if s.Problem != "" {
					problem = s.Problem
				}
				_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", s.Name, s.Nodes, s.Pods, age, clean(s.Manifests), clean(problem))
			}
			return w.Flush()
		},
	}
}

func (c *labCLI) exec() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "exec POD -- COMMAND [ARG...]",
		Example: "  agentctl lab exec -n shop web -- curl -s http://cart:8080/\n  agentctl lab exec node/n1 -- ip route",
		Short:   "Run a command in a pod (POD or NAMESPACE/POD), in node/NAME or in the controller's network",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			argv := args[1:]
			if argv[0] == "--" && len(argv) > 1 {
				argv = argv[1:]
			}
			return c.run(cmd.Context(), labTarget(namespace, args[0]), argv)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of POD")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// labTarget completes a pod's name; what holds a slash is complete.
func labTarget(namespace, target string) string {
	if target == "controller" || strings.Contains(target, "/") {
		return target
	}
	return namespace + "/" + target
}

func (c *labCLI) shell() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:     "shell POD",
		Example: "  agentctl lab shell shop/web",
		Short:   "Open a shell in a pod (POD or NAMESPACE/POD), in node/NAME or in the controller's network",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			shell := os.Getenv("SHELL")
			if shell == "" {
				shell = "/bin/sh"
			}
			// An interrupt is the shell's to handle, not agentctl's.
			return c.run(context.WithoutCancel(cmd.Context()), labTarget(namespace, args[0]), []string{shell})
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace of POD")
	return cmd
}

func (c *labCLI) run(ctx context.Context, target string, argv []string) error {
	l, err := lab.Open(c.name)
	if err != nil {
		return err
	}
	code, err := l.Exec(ctx, target, argv, lab.Stdio{In: c.in, Out: c.out, Err: c.err})
	if err != nil {
		return err
	}
	if code != 0 {
		return labExit(code)
	}
	return nil
}

func (c *labCLI) apply() *cobra.Command {
	return &cobra.Command{
		Use:     "apply",
		Example: "  agentctl lab apply",
		Short:   "Make and remove pods and services as the lab's manifests say now",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open(c.name)
			if err != nil {
				return err
			}
			return c.brief(l.Reconcile(cmd.Context()))
		},
	}
}

func (c *labCLI) check() *cobra.Command {
	var binDir string
	cmd := &cobra.Command{
		Use:     "check",
		Example: "  agentctl lab check",
		Short:   "Say whether this machine can run a lab, and what to do if not",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			able := true
			for _, f := range lab.Check(binDir) {
				state := "ok"
				if !f.OK {
					state = "missing"
				}
				if f.Optional && !f.OK {
					state = "optional"
				}
				_, _ = fmt.Fprintf(c.out, "%-8s  %s: %s\n", state, f.Name, clean(f.Detail))
				if !f.OK {
					_, _ = fmt.Fprintf(c.out, "          %s\n", clean(f.Hint))
				}
				able = able && (f.OK || f.Optional)
			}
			if !able {
				return errors.New("this machine cannot run a lab yet")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&binDir, "bin-dir", "", "folder of the binaries agent, controller and sample (default this one's)")
	return cmd
}
