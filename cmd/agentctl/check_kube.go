package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/warren-mesh/warren/internal/cluster"
	"github.com/warren-mesh/warren/internal/release"
)

// needKubernetes is the oldest minor version of Kubernetes 1: release.MinKubernetes.
const needKubernetes = 30

// preSections checks the cluster of the kubeconfig, or this machine if there is none or local says so.
func (a *app) preSections(ctx context.Context, local bool) ([]section, error) {
	if local {
		return a.preChecks(), nil
	}
	c, err := a.cluster()
	if errors.Is(err, cluster.ErrNoKubeconfig) && !a.kube.named() {
		return a.preChecks(), nil
	}
	if err != nil {
		return nil, err
	}
	api := section{Name: "kubernetes-api"}
	facts, err := c.Look(ctx)
	if err != nil {
		err = a.explainKube(c, err)
		a.expectAnswer(&api, "the API server answers", err)
		return []section{api}, nil
	}
	rel, err := release.NewCluster(c, c.Namespace, a.helmLog())
	if err != nil {
		return nil, err
	}
	sections := clusterChecks(c, facts)
	info, ok, err := rel.Existing()
	sections[0].Checks = append(sections[0].Checks, existingCheck(info, ok, err))
	return sections, nil
}

// rolloutChecks looks at Warren's own pods if the request went to a cluster: an agent that never came up is in no status.
func (a *app) rolloutChecks(ctx context.Context) []section {
	if a.asked == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return []section{rolloutSection(a.asked.Rollout(ctx))}
}

func rolloutSection(parts []cluster.Part, err error) section {
	s := section{Name: "kubernetes-pods"}
	if err != nil {
		s.expect("Warren's pods can be read", checkFail, "install it: agentctl install", err.Error())
		return s
	}
	for _, p := range parts {
		var missing []string
		if !p.Done() {
			missing = append([]string{fmt.Sprintf("%d of %d", p.Ready, p.Want)}, p.Waiting...)
		}
		s.expect(fmt.Sprintf("every pod of the %s is ready", p.Name), checkFail, "see its log: kubectl logs, or collect all: agentctl bug-report", missing...)
	}
	return s
}

func existingCheck(info release.Info, ok bool, err error) result {
	s := section{}
	const what = "no other release is there"
	switch {
	case err != nil:
		s.expect(what, checkWarn, "", err.Error())
	case ok:
		s.expect(what, checkWarn, "bring it to this version: agentctl upgrade; see how it is: agentctl check",
			fmt.Sprintf("Warren %s, revision %d: %s", info.App, info.Revision, info.Status))
	default:
		s.expect(what, checkWarn, "")
	}
	return s.Checks[0]
}

// clusterChecks judges what is known of a cluster.
func clusterChecks(c *cluster.Cluster, f *cluster.Facts) []section {
	api := section{Name: "kubernetes-api"}
	api.expect("the API server answers", checkFail, "")
	api.expect(fmt.Sprintf("Kubernetes is 1.%d or newer", needKubernetes), checkFail, "upgrade the cluster", oldKubernetes(f)...)
	api.expect("everything could be read", checkWarn, "what could not be read was not checked", f.Unread...)
	api.expect("you may install", checkFail, "use a kubeconfig of an administrator: a binding to ClusterRole cluster-admin", f.Denied...)
	api.expect("no newer CRDs are there", checkFail, "use the agentctl of the version that installed them", newerCRDs(f)...)
	api.expect("agents' pods are admitted", checkFail,
		fmt.Sprintf("kubectl label --overwrite namespace %s pod-security.kubernetes.io/enforce=privileged", c.Namespace), restricted(c, f)...)
	return []section{api, gatewayChecks(f.GatewayAPI), nodeChecks(f.Nodes), conflictChecks(f.Conflicts)}
}

func oldKubernetes(f *cluster.Facts) []string {
	minor, err := strconv.Atoi(strings.TrimRight(f.Version.Minor, "+"))
	if err != nil || f.Version.Major != "1" || minor < needKubernetes {
		return []string{"it is " + f.Version.GitVersion}
	}
	return nil
}

// newerCRDs names CRDs whose revision is higher than this chart's.
func newerCRDs(f *cluster.Facts) (found []string) {
	chart, err := release.Chart()
	if err != nil {
		return []string{err.Error()}
	}
	ours, _ := strconv.Atoi(chart.Metadata.Annotations[release.CRDRevision])
	for _, crd := range f.CRDs {
		theirs, err := strconv.Atoi(crd.Revision)
		if err != nil {
			found = append(found, fmt.Sprintf("CRD %s is not Warren's: it has no revision", crd.Name))
		} else if theirs > ours {
			found = append(found, fmt.Sprintf("CRD %s has revision %d, this agentctl knows %d", crd.Name, theirs, ours))
		}
	}
	return found
}

// restricted says if Pod Security Admission would refuse agents. Unlabelled namespaces follow the API server's default.
func restricted(c *cluster.Cluster, f *cluster.Facts) []string {
	if f.NamespaceExists && f.NamespaceLevel != "" && f.NamespaceLevel != "privileged" {
		return []string{fmt.Sprintf("namespace %s enforces the Pod Security level %q", c.Namespace, f.NamespaceLevel)}
	}
	return nil
}

func nodeChecks(nodes []corev1.Node) section {
	s := section{Name: "kubernetes-nodes"}
	each := func(find func(corev1.NodeSystemInfo) string) (found []string) {
		for _, n := range nodes {
			if text := find(n.Status.NodeInfo); text != "" {
				found = append(found, "node "+n.Name+": "+text)
			}
		}
		return found
	}
	var none []string
	if len(nodes) == 0 {
		none = []string{"the cluster has no node"}
	}
	s.expect("there are nodes", checkFail, "join a node", none...)
	s.expect(fmt.Sprintf("the nodes' kernels are %d.%d or newer", needMajor, needMinor), checkFail,
		"upgrade the kernel; or label the nodes that agents shall run on, and install with --set agent.nodeSelector.LABEL=VALUE",
		each(func(i corev1.NodeSystemInfo) string {
			if i.OperatingSystem == "windows" || kernelIsNew(i.KernelVersion) {
				return ""
			}
			return "it runs " + i.KernelVersion
		})...)
	s.expect("the nodes are linux on amd64 or arm64", checkWarn, "other nodes get no agent: their pods stay out of the mesh",
		each(func(i corev1.NodeSystemInfo) string {
			if i.OperatingSystem == "linux" && slices.Contains([]string{"amd64", "arm64"}, i.Architecture) {
				return ""
			}
			return i.OperatingSystem + "/" + i.Architecture
		})...)
	s.expect("the container runtime is containerd or CRI-O", checkWarn, "others are not tested: look at agentctl status pods after the installation",
		each(func(i corev1.NodeSystemInfo) string {
			name, _, _ := strings.Cut(i.ContainerRuntimeVersion, ":")
			if name == "containerd" || name == "cri-o" {
				return ""
			}
			return "it is " + i.ContainerRuntimeVersion
		})...)
	return s
}
