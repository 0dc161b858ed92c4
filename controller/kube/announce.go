package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// tendEvery is how often what the leader wrote is looked at again: somebody may have deleted it.
const tendEvery = 5 * time.Second

// Announcement is what the leader tells the cluster.
type Announcement struct {
	Material Material
	// Port is where agents reach this replica.
	Port uint16
	// Roots are the roots that agents begin with, PEM.
	Roots []byte
}

// Tend announces this replica as leader until ctx ends, and puts right what others change. Returns ErrCAChanged when
// the CA's Secret changes. What cannot be written is logged and tried again: agents that are connected go on.
func (c *Cluster) Tend(ctx context.Context, a Announcement) error {
	for {
		wait := tendEvery
		if err := c.announce(ctx, a); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c.cfg.Log.Warn("cannot announce this replica as the leader", "err", err)
			wait = 2 * time.Second
		}
		changed, err := c.materialChanged(ctx, a.Material)
		if err == nil && changed {
			return ErrCAChanged
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func (c *Cluster) announce(ctx context.Context, a Announcement) error {
	errs := []error{c.putRoots(ctx, a.Roots)}
	families := map[discoveryv1.AddressType][]string{}
	for _, ip := range c.cfg.PodIPs {
		addr, err := netip.ParseAddr(ip)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("this pod's address %q: %w", ip, err))
		case addr.Is4():
			families[discoveryv1.AddressTypeIPv4] = append(families[discoveryv1.AddressTypeIPv4], ip)
		default:
			families[discoveryv1.AddressTypeIPv6] = append(families[discoveryv1.AddressTypeIPv6], ip)
		}
	}
	for family, addrs := range families {
		errs = append(errs, c.putSlice(ctx, family, addrs, a.Port))
	}
	return errors.Join(errs...)
}

func (c *Cluster) putRoots(ctx context.Context, roots []byte) error {
	api := c.client.CoreV1().ConfigMaps(c.cfg.Namespace)
	want := map[string]string{BundleKey: string(roots)}
	have, err := api.Get(ctx, RootsConfig, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: RootsConfig, Labels: partOf()}, Data: want}, metav1.CreateOptions{})
	case err == nil && !maps.Equal(have.Data, want):
		have.Data = want
		_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap %s: %w", RootsConfig, err)
	}
	return nil
}

// putSlice makes the Service, which has no selector, lead to this replica.
func (c *Cluster) putSlice(ctx context.Context, family discoveryv1.AddressType, addrs []string, port uint16) error {
	name, portName, number, tcp, ready := LeaderSlice, "agents", int32(port), corev1.ProtocolTCP, true
	if family == discoveryv1.AddressTypeIPv6 {
		name += "-v6"
	}
	labels := partOf()
	labels[discoveryv1.LabelServiceName] = Service
	labels[discoveryv1.LabelManagedBy] = "warren-controller"
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: labels},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: addrs, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &number, Protocol: &tcp}},
	}
	api := c.client.DiscoveryV1().EndpointSlices(c.cfg.Namespace)
	have, err := api.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && !(reflect.DeepEqual(have.Endpoints, want.Endpoints) && reflect.DeepEqual(have.Ports, want.Ports)):
		have.Endpoints, have.Ports = want.Endpoints, want.Ports
		_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write EndpointSlice %s: %w", name, err)
	}
	return nil
}
