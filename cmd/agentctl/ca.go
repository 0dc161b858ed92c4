package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
	"github.com/warren-mesh/warren/ca"
	"github.com/warren-mesh/warren/ca/rotation"
	"github.com/warren-mesh/warren/identity"
	"github.com/warren-mesh/warren/internal/cluster"
)

// caCommand looks after the certificate authority of a cluster.
func (a *app) caCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ca",
		Short:   "Look after the mesh's certificate authority",
		Example: "  agentctl ca rotate",
		Args:    exactArgs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.caRotateCommand())
	return cmd
}

// rotateFlags are those of ca rotate.
type rotateFlags struct {
	cert, key string
	timeout   time.Duration
}

func (a *app) caRotateCommand() *cobra.Command {
	var f rotateFlags
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Exchange the mesh's root without a failed connection",
		Long: `Exchange the mesh's root in three steps, each of which waits until every node has followed:

  1. trust    every node trusts the new root beside the old one
  2. sign     the new root signs; every certificate is replaced
  3. forget   the old root is no longer trusted

Interrupted, it goes on where it was when it is run again. A node that is not connected is not waited for: when it comes
back it proves itself anew. The new root is made here unless --cert and --key give one; a certificate that is not a root
itself must be followed by those above it.`,
		Example: `  agentctl ca rotate
  agentctl ca rotate --cert intermediate-and-root.pem --key intermediate.key`,
		Args: exactArgs(),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.cert, "cert", "", "PEM file of the new CA's certificate and those above it")
	flags.StringVar(&f.key, "key", "", "PEM file of its key")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long to wait for each step")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (f.cert == "") != (f.key == "") {
			return usagef("see: agentctl ca rotate --help", "--cert and --key belong together")
		}
		return a.rotate(cmd.Context(), f)
	}
	return cmd
}

// rotate takes the steps that are left.
func (a *app) rotate(ctx context.Context, f rotateFlags) error {
	c, err := a.cluster()
	if err != nil {
		return err
	}
	secret, err := c.Authority(ctx)
	if err != nil {
		return a.explainKube(c, err)
	}
	for {
		state, err := rotation.Read(secret.Data())
		if err != nil {
			return &failure{text: "the CA's Secret: " + err.Error(), err: err}
		}
		var next map[string][]byte
		switch state.Step {
		case rotation.None:
			next, err = a.beginRotation(ctx, secret, f)
		case rotation.Trust:
			a.printf("1/3 trust   every node is to trust root %s\n", shortRoot(state.New))
			if err = a.await(ctx, f.timeout, trustedBy(state.New)); err == nil {
				next, err = rotation.Switch(secret.Data())
			}
		case rotation.Sign:
			a.printf("2/3 sign    every certificate is to be signed by root %s\n", shortRoot(state.New))
			if err = a.await(ctx, f.timeout, a.signedBy(ctx, state.New)); err == nil {
				next, err = rotation.Finish(secret.Data())
			}
		}
		if err != nil {
			return err
		}
		if secret, err = c.Write(ctx, secret, next); err != nil {
			return a.explainKube(c, err)
		}
		if state.Step == rotation.Sign {
			return a.forgotten(ctx, state, f)
		}
	}
}

// forgotten waits for the last step.
func (a *app) forgotten(ctx context.Context, s rotation.State, f rotateFlags) error {
	a.printf("3/3 forget  no node is to trust root %s\n", shortRoot(s.Old))
	if err := a.await(ctx, f.timeout, forgottenBy(s.Old)); err != nil {
		return err
	}
	a.printf("the mesh's root is %s now, until %s\n", shortRoot(s.New), s.New.NotAfter.Format(time.DateOnly))
	return nil
}

// beginRotation makes or reads the new CA. It refuses while a node that is connected has problems with the present one.
func (a *app) beginRotation(ctx context.Context, secret *cluster.Authority, f rotateFlags) (map[string][]byte, error) {
	st, err := ask(ctx, a, adminv1.AdminClient.Status, &adminv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	cert, key, err := newCA(st.GetController().GetTrustDomain(), f)
	if err != nil {
		return nil, &failure{text: err.Error(), err: err}
	}
	next, err := rotation.Begin(secret.Data(), cert, key)
	if err != nil {
		return nil, &failure{text: err.Error(), err: err}
	}
	return next, nil
}

func newCA(trustDomain string, f rotateFlags) (cert, key []byte, err error) {
	if f.cert == "" {
		return ca.NewRoot(trustDomain)
	}
	if cert, err = os.ReadFile(f.cert); err == nil {
		key, err = os.ReadFile(f.key)
	}
	return cert, key, err
}

func shortRoot(root *x509.Certificate) string { return identity.Fingerprint(root)[:16] }

// unfinished says what is waited for, "" once nothing is.
type unfinished func(*adminv1.CertsReply) string

// await asks for everybody's certificates until nothing is left to wait for. A controller that is away is waited for:
// each step makes it begin anew.
func (a *app) await(ctx context.Context, timeout time.Duration, left unfinished) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	said := ""
	for {
		text := "waiting for the controller"
		if reply, err := ask(ctx, a, adminv1.AdminClient.Certs, &adminv1.ListRequest{}); err == nil {
			text = left(reply)
		}
		if text == "" {
			return nil
		}
		if text != said {
			a.printf("            %s\n", clean(text))
			said = text
		}
		select {
		case <-ctx.Done():
			return &failure{text: fmt.Sprintf("not done after %s: %s", timeout, said), err: ctx.Err(),
				hint: "nothing is broken: old and new root are both trusted. Run agentctl ca rotate again to go on"}
		case <-tick.C:
		}
	}
}

func trustedBy(root *x509.Certificate) unfinished {
	return func(reply *adminv1.CertsReply) string {
		return bundlesLeft(reply, "trust it", func(b *adminv1.BundleInfo) bool {
			return slices.Contains(b.GetFingerprints(), identity.Fingerprint(root))
		})
	}
}

func forgottenBy(root *x509.Certificate) unfinished {
	return func(reply *adminv1.CertsReply) string {
		return bundlesLeft(reply, "have forgotten it", func(b *adminv1.BundleInfo) bool {
			return !slices.Contains(b.GetFingerprints(), identity.Fingerprint(root))
		})
	}
}

// bundlesLeft counts the bundles that are as they must be. No bundle at all is no answer.
func bundlesLeft(reply *adminv1.CertsReply, done string, is func(*adminv1.BundleInfo) bool) string {
	if len(reply.GetBundles()) == 0 {
		return "waiting for agents to connect"
	}
	var late []string
	for _, b := range reply.GetBundles() {
		if !is(b) {
			late = append(late, b.GetNode())
		}
	}
	late = append(late, silent(reply)...)
	if len(late) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d nodes %s%s", len(reply.GetBundles())-len(late)+len(silent(reply)), len(reply.GetBundles())+len(silent(reply)), done, names(late))
}

// silent are the nodes that are connected and did not answer.
func silent(reply *adminv1.CertsReply) (nodes []string) {
	for _, c := range reply.GetCerts() {
		if c.GetSpiffeId() == "" && c.GetState() == "missing" {
			nodes = append(nodes, c.GetNode())
		}
	}
	return nodes
}

func names(nodes []string) string {
	const most = 3
	switch {
	case len(nodes) == 0:
		return ""
	case len(nodes) > most:
		return fmt.Sprintf("; not %s and %d more", strings.Join(nodes[:most], ", "), len(nodes)-most)
	}
	return "; not " + strings.Join(nodes, ", ")
}

// signedBy also asks agents for new certificates where there are old ones.
func (a *app) signedBy(ctx context.Context, root *x509.Certificate) unfinished {
	want := identity.Fingerprint(root)
	return func(reply *adminv1.CertsReply) string {
		old, all := 0, 0
		for _, c := range reply.GetCerts() {
			if all++; c.GetRoot() != want {
				old++
			}
		}
		switch {
		case all == 0:
			return "waiting for agents to connect"
		case old == 0:
			return ""
		}
		// One that is under way is not asked for twice, and a failure shows in the next answer.
		_, _ = ask(ctx, a, adminv1.AdminClient.Renew, &adminv1.RenewRequest{Root: want})
		return fmt.Sprintf("%d of %d certificates are", all-old, all)
	}
}
