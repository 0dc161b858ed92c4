package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/test/e2e/cluster"
	"github.com/warren-mesh/warren/test/e2e/images"
)

// app is what the commands share: the cluster's name.
type app struct{ name string }

func root() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use: "cluster", Short: "A real Kubernetes of several nodes on this machine, to play with",
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.PersistentFlags().StringVar(&a.name, "name", "play", "the cluster's name")
	cmd.AddCommand(a.up(), a.down(), a.info(), a.kubectl(), a.run(), a.exec(), a.load(), a.pack(), a.kill(), a.start(),
		a.simulate())
	return cmd
}

func (a *app) up() *cobra.Command {
	cfg := cluster.Config{Keep: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	cmd := &cobra.Command{
		Use: "up", Short: "make the cluster; it stays until it is brought down", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Name = a.name
			return bringUp(cmd.Context(), cfg)
		},
	}
	cmd.Flags().IntVar(&cfg.Nodes, "nodes", 2, "how many nodes")
	cmd.Flags().StringVar(&cfg.ProxyMode, "proxy-mode", cluster.ProxyNFTables, "kube-proxy's mode: nftables or iptables")
	cmd.Flags().StringVar(&cfg.CNI, "cni", cluster.CNIPointToPoint, "how pods are connected: ptp or bridge")
	return cmd
}

func bringUp(ctx context.Context, cfg cluster.Config) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if cfg.BinDir, err = cluster.Binaries(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/tmp", "we2e-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if cfg.Images, err = images.Build(ctx, cfg.BinDir, dir); err != nil {
		return err
	}
	c, err := cluster.Up(ctx, cfg)
	if err != nil {
		return err
	}
	return describe(c)
}

func describe(c *cluster.Cluster) error {
	fmt.Printf("logs:          %s\n", filepath.Join(c.Dir(), "logs"))
	fmt.Printf("kubeconfig:    %s\n", c.Kubeconfig())
	fmt.Printf("control plane: nsenter --net=%s\n", c.ControlPlane().Netns())
	for _, n := range c.Nodes() {
		state := "running"
		if !n.Running() {
			state = "off"
		}
		fmt.Printf("%s:        %s, pods %s, %s, disk %s\n", n.Name, n.Addrs(), n.PodRanges(), state, n.Dir())
	}
	return nil
}

func (a *app) down() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "remove every trace of the cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Open(a.name)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			return c.Down(ctx)
		},
	}
}

func (a *app) info() *cobra.Command {
	return &cobra.Command{
		Use: "info", Short: "where the cluster's parts are", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := cluster.Open(a.name)
			if err != nil {
				return err
			}
			return describe(c)
		},
	}
}

func (a *app) kubectl() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl -- ARGS...", Short: "run kubectl", Example: "  cluster kubectl -- get pods -A -o wide",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.attached(func(c *cluster.Cluster) (*exec.Cmd, error) { return c.KubectlCommand(cmd.Context(), args...), nil })
		},
	}
}

func (a *app) run() *cobra.Command {
	return &cobra.Command{
		Use: "run -- COMMAND...", Short: "run a command in the control plane's network, with KUBECONFIG and kubectl",
		Args: cobra.MinimumNArgs(1), Example: "  cluster run -- bash\n  cluster run -- $PWD/bin/agentctl status",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.attached(func(c *cluster.Cluster) (*exec.Cmd, error) {
				return c.ControlPlane().Command(cmd.Context(), args...), nil
			})
		},
	}
}

func (a *app) exec() *cobra.Command {
	return &cobra.Command{
		Use: "exec NODE -- COMMAND...", Short: "run a command on a node, in all its namespaces",
		Args: cobra.MinimumNArgs(2), Example: "  cluster exec node-a -- ctr -n k8s.io containers ls",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.attached(func(c *cluster.Cluster) (*exec.Cmd, error) {
				n, err := find(c, args[0])
				if err != nil {
					return nil, err
				}
				return n.Command(cmd.Context(), args[1:]...)
			})
		},
	}
}

// attached runs a command on this terminal, and ends as it ends.
func (a *app) attached(prepare func(*cluster.Cluster) (*exec.Cmd, error)) error {
	c, err := cluster.Open(a.name)
	if err != nil {
		return err
	}
	cmd, err := prepare(c)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = nil // stay in the terminal's foreground
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	signal.Ignore(syscall.SIGTTOU)
	return cmd.Run()
}

func (a *app) load() *cobra.Command {
	return &cobra.Command{
		Use: "load ARCHIVE...", Short: "import image archives on all nodes", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(a.name)
			if err != nil {
				return err
			}
			return c.LoadImage(cmd.Context(), args...)
		},
	}
}

func (a *app) kill() *cobra.Command {
	return &cobra.Command{
		Use: "kill NODE", Short: "switch a node off, as a loss of power would", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onNode(args[0], func(n *cluster.Node) error { return n.Kill(cmd.Context()) })
		},
	}
}

func (a *app) start() *cobra.Command {
	return &cobra.Command{
		Use: "start NODE", Short: "switch a node on again", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.onNode(args[0], func(n *cluster.Node) error { return n.Start(cmd.Context()) })
		},
	}
}

func (a *app) simulate() *cobra.Command {
	return &cobra.Command{
		Use: "simulate COUNT", Short: "add nodes that exist in the API only", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			count, err := strconv.Atoi(args[0])
			if err != nil {
				return fmt.Errorf("COUNT: %w", err)
			}
			c, err := cluster.Open(a.name)
			if err != nil {
				return err
			}
			return c.Simulate(cmd.Context(), count)
		},
	}
}

func (a *app) onNode(name string, do func(*cluster.Node) error) error {
	c, err := cluster.Open(a.name)
	if err != nil {
		return err
	}
	n, err := find(c, name)
	if err != nil {
		return err
	}
	return do(n)
}

func find(c *cluster.Cluster, name string) (*cluster.Node, error) {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %s: there are %d, from node-a on", name, len(c.Nodes()))
}
