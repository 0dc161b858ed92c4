package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

const (
	chainFile = "/etc/cni/net.d/10-pods.conflist"
	cniBin    = "/opt/cni/bin"
	// chainTimeout is the kubelet's for everything that a pod's network takes.
	chainTimeout = 2 * time.Minute
)

// chained is one plug-in of the node's chain, called as a runtime does after those that stand before it.
type chained struct {
	path    string
	version string                     // of the specification
	conf    map[string]json.RawMessage // its element of the chain, with what libcni adds to each
}

// findChained reads the chain as it stands now.
func findChained(plugin, log string) (c chained, err error) {
	raw, err := os.ReadFile(chainFile)
	if err != nil {
		return c, err
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]json.RawMessage
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return c, fmt.Errorf("%s: %w", chainFile, err)
	}
	c.version = list.CNIVersion
	for _, entry := range list.Plugins {
		if string(entry["type"]) == fmt.Sprintf("%q", plugin) {
			c.conf = entry
		}
	}
	if c.conf == nil {
		return c, fmt.Errorf("%s is not in the chain of %s: %s", plugin, chainFile, raw)
	}
	for key, value := range map[string]string{"cniVersion": list.CNIVersion, "name": list.Name, "log": log} {
		if c.conf[key], err = json.Marshal(value); err != nil {
			return c, err
		}
	}
	c.path, err = invoke.FindInPath(plugin, []string{cniBin})
	return c, err
}

// before is what the plug-in that makes the network says of it, in the chain's version of the specification.
func (c chained) before(p *barePod, mac string) ([]byte, error) {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{
		{Name: "eth0", Mac: mac, Sandbox: p.netns}}}
	for _, a := range p.Addrs {
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: *alone(a)})
	}
	same, err := r.GetAsVersion(c.version)
	if err != nil {
		return nil, err
	}
	return json.Marshal(same)
}

func (c chained) add(p *barePod) error {
	ctx, cancel := context.WithTimeout(context.Background(), chainTimeout)
	defer cancel()
	conf, args, err := c.call("ADD", p)
	if err != nil {
		return err
	}
	_, err = invoke.ExecPluginWithResult(ctx, c.path, conf, args, nil)
	return err
}

func (c chained) del(p *barePod) error {
	ctx, cancel := context.WithTimeout(context.Background(), chainTimeout)
	defer cancel()
	conf, args, err := c.call("DEL", p)
	if err != nil {
		return err
	}
	return invoke.ExecPluginWithoutResult(ctx, c.path, conf, args, nil)
}

// call is what a runtime passes.
func (c chained) call(command string, p *barePod) (conf []byte, args *invoke.Args, err error) {
	full := map[string]json.RawMessage{"prevResult": p.result}
	for key, value := range c.conf {
		full[key] = value
	}
	conf, err = json.Marshal(full)
	return conf, &invoke.Args{
		Command: command, ContainerID: "bare-" + p.UID, NetNS: p.netns, IfName: "eth0", Path: cniBin,
		PluginArgs: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.Namespace}, {"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", "bare-" + p.UID}, {"K8S_POD_UID", p.UID},
		},
	}, err
}
