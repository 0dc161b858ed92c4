package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/warren-mesh/warren/api/adminv1"
)

// authzCommand holds the questions about policy.
func (a *app) authzCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "authz",
		Short:   "Ask what the policies decide",
		Example: `  agentctl authz can --from shop/web --to shop/payments:8080`,
		Args:    cobra.ArbitraryArgs,
		RunE:    helpOrUnknown,

		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(a.authzCanCommand())
	return cmd
}

func (a *app) authzCanCommand() *cobra.Command {
	var from, to string
	var plaintext bool
	cmd := &cobra.Command{
		Use:   "can --from WHO --to NAMESPACE/POD:PORT",
		Short: "Say whether a connection would be allowed, and by which rule",
		Long: `Say yes or no, by which rule, and which policies were considered. Nothing is dialled.
WHO is NAMESPACE/POD or a SPIFFE id. Exits with 0 for yes and 3 for no.`,
		Example: `  agentctl authz can --from shop/web --to shop/payments:8080
  agentctl authz can --from spiffe://cluster.local/ns/shop/sa/web --to shop/payments:8080
  agentctl authz can --plaintext --from shop/legacy --to shop/payments:8080 && echo open`,
		Args: exactArgs(),
	}
	output := outputFlag(cmd, formatTable, formatJSON, formatYAML)
	cmd.Flags().StringVar(&from, "from", "", "source: NAMESPACE/POD or a SPIFFE id")
	cmd.Flags().StringVar(&to, "to", "", "destination: NAMESPACE/POD:PORT")
	cmd.Flags().BoolVar(&plaintext, "plaintext", false, "ask about a connection without mTLS")
	_ = cmd.RegisterFlagCompletionFunc("from", a.completePods(-1))
	_ = cmd.RegisterFlagCompletionFunc("to", a.completePods(-1))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		req, err := authzRequest(from, to, plaintext)
		if err != nil {
			return err
		}
		reply, err := ask(cmd.Context(), a, adminv1.AdminClient.Authz, req)
		if err != nil {
			return err
		}
		if output.machine() {
			err = a.emit(output.value, reply)
		} else {
			err = a.authzAnswer(req, reply)
		}
		if err == nil && !reply.Allowed {
			return errNo
		}
		return err
	}
	return cmd
}

func authzRequest(from, to string, plaintext bool) (*adminv1.AuthzRequest, error) {
	if to == "" || (from == "" && !plaintext) {
		return nil, usagef("agentctl authz can --from shop/web --to shop/payments:8080", "authz can needs --from and --to")
	}
	pod, port, err := splitPort(to)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(pod, "/") {
		return nil, usagef("write it as NAMESPACE/POD:PORT", "--to %q has no namespace", to)
	}
	if from != "" && !strings.Contains(from, "/") {
		return nil, usagef("write it as NAMESPACE/POD or spiffe://…", "--from %q has no namespace", from)
	}
	return &adminv1.AuthzRequest{From: from, To: pod, Port: port, Plaintext: plaintext}, nil
}

func (a *app) authzAnswer(req *adminv1.AuthzRequest, reply *adminv1.AuthzReply) error {
	answer := a.paint(good, "yes")
	if !reply.Allowed {
		answer = a.paint(bad, "no")
	}
	a.printf("%s\n", answer)
	line := func(name, text string) {
		if text != "" {
			a.printf("  %-11s %s\n", name, clean(text))
		}
	}
	line("rule:", reply.Rule)
	line("reason:", reply.Reason)
	line("audit:", reply.Audit)
	line("from:", strings.TrimSpace(req.From+" "+inBrackets(reply.FromId, req.From)))
	line("to:", strings.TrimSpace(req.To+" "+inBrackets(reply.ToId, req.To)))
	if len(reply.Considered) == 0 {
		line("considered:", "no policy selects the destination")
	}
	for i, c := range reply.Considered {
		name := ""
		if i == 0 {
			name = "considered:"
		}
		line(name, c)
	}
	if !reply.Allowed {
		a.printf("hint: see the policies: agentctl policies -n %s\n", clean(strings.SplitN(req.To, "/", 2)[0]))
	}
	return nil
}

func inBrackets(id, other string) string {
	if id == "" || id == other {
		return ""
	}
	return "(" + id + ")"
}
