package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// writePodFiles writes what a pod sees as /etc/resolv.conf, /etc/hosts and /etc/hostname.
func writePodFiles(p paths, pod *Pod) error {
	dir := p.etc(pod.id())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("pod %s: %w", pod.FullName(), err)
	}
	files := map[string]string{
		"resolv.conf": resolvConf(pod),
		"hosts":       hostsFile(pod),
		"hostname":    pod.hostname() + "\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("pod %s: %w", pod.FullName(), err)
		}
	}
	return nil
}

// hostname is the pod's name, cut to what sethostname(2) takes.
func (p *Pod) hostname() string {
	if p.HostNetwork {
		return p.Node[:min(len(p.Node), 63)]
	}
	return strings.TrimRight(p.Name[:min(len(p.Name), 63)], ".-")
}

// resolvConf is what a kubelet writes for dnsPolicy ClusterFirst.
func resolvConf(pod *Pod) string {
	var b strings.Builder
	for _, server := range addrsOf(fabricAddrs(dnsHost)) {
		if pod.first(server.Is4()).IsValid() {
			fmt.Fprintf(&b, "nameserver %s\n", server)
		}
	}
	fmt.Fprintf(&b, "search %s.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n", pod.Namespace)
	return b.String()
}

func hostsFile(pod *Pod) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n")
	if !pod.NoIPv6 {
		b.WriteString("::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	for _, is4 := range []bool{true, false} {
		if addr := pod.first(is4); addr.IsValid() {
			fmt.Fprintf(&b, "%s\t%s\n", addr, pod.hostname())
		}
	}
	return b.String()
}

// first is the pod's first address of a family, invalid if it has none.
func (p *Pod) first(is4 bool) netip.Addr {
	for _, addr := range p.Addrs {
		if addr.Is4() == is4 {
			return addr
		}
	}
	return netip.Addr{}
}

const systemPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// processEnv is the environment of a container's process: a path that ends with binDir, where the sample app is, what
// Kubernetes gives every container, and its own.
func processEnv(pod *Pod, c *Container, binDir string) ([]string, error) {
	env := []string{
		systemPath + ":" + binDir,
		"HOME=/root", "HOSTNAME=" + pod.hostname(),
	}
	if pod.isWaypoint() {
		env = append(env, envUID+"="+pod.UID, envNode+"="+pod.Node)
	}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			if e.ValueFrom.FieldRef == nil {
				return nil, fmt.Errorf("%w: pod %s: env %s: valueFrom: only fieldRef exists in a lab", ErrManifest, pod.FullName(), e.Name)
			}
			var ok bool
			if value, ok = pod.field(e.ValueFrom.FieldRef.FieldPath); !ok {
				return nil, fmt.Errorf("%w: pod %s: env %s: fieldPath %q is unknown", ErrManifest, pod.FullName(), e.Name, e.ValueFrom.FieldRef.FieldPath)
			}
		}
		env = append(env, e.Name+"="+expand(value, env))
	}
	return env, nil
}

// field answers for the downward API.
func (p *Pod) field(path string) (string, bool) {
	switch path {
	case "metadata.name":
		return p.Name, true
	case "metadata.namespace":
		return p.Namespace, true
	case "metadata.uid":
		return p.UID, true
	case "spec.nodeName":
		return p.Node, true
	case "spec.serviceAccountName":
		return p.ServiceAccount, true
	case "status.podIP":
		return p.Addrs[0].String(), true
	case "status.podIPs":
		return strings.Join(texts(p.Addrs), ","), true
	}
	return "", false
}

var variable = regexp.MustCompile(`\$(\$\([^)]*\)|\(([^)]+)\))`)

// expand replaces $(NAME) as Kubernetes does in commands, arguments and values: an unknown name stays as it is, and
// $$(NAME) is $(NAME).
func expand(text string, env []string) string {
	return variable.ReplaceAllStringFunc(text, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		name := m[2:len(m)-1] + "="
		for i := len(env) - 1; i >= 0; i-- {
			if value, ok := strings.CutPrefix(env[i], name); ok {
				return value
			}
		}
		return m
	})
}

// argv is what a container executes. Without a command the sample's and the waypoint's image run their binary from binDir.
func (c *Container) argv(binDir string, env []string) []string {
	argv := c.Command
	if len(argv) == 0 {
		argv = []string{filepath.Join(binDir, c.binary())}
	}
	all := make([]string, 0, len(argv)+len(c.Args))
	for _, arg := range argv {
		all = append(all, expand(arg, env))
	}
	for _, arg := range c.Args {
		all = append(all, expand(arg, env))
	}
	return all
}

// binary is what a container without a command runs.
func (c *Container) binary() string {
	if isWaypoint(c.Image) {
		return "waypoint"
	}
	return "sample"
}
