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
	var request adminv1.AuthzRequest
	cmd := &cobra.Command{
		Use:   "can --from WHO --to NAMESPACE/POD:PORT",
		Short: "Say whether a connection or a request would be allowed, and by which rule",
		Long: `Say yes or no, by which rule, and which policies were considered. Nothing is dialled.
WHO is NAMESPACE/POD or a SPIFFE id. With --method, --path, --host, --header or --claim the question is about a request,
which the destination's waypoint decides. External authorizers are not asked: they are named, and taken to say yes.
Exits with 0 for yes and 3 for no.`,
		Example: `  agentctl authz can --from shop/web --to shop/payments:8080
  agentctl authz can --from shop/web --to shop/payments:8080 --method POST --path /v1/refunds --header 'x-tenant: a'
  agentctl authz can --from shop/web --to shop/payments:8080 --path /v1/refunds --claim iss=https://id.example --claim sub=ann
  agentctl authz can --from spiffe://cluster.local/ns/shop/sa/web --to shop/payments:8080
  agentctl authz can --plaintext --from shop/legacy --to shop/payments:8080 && echo open`,
		Args: exactArgs(),
	}
	output := outputFlag(cmd, formatTable, formatJSON, formatYAML)
	cmd.Flags().StringVar(&from, "from", "", "source: NAMESPACE/POD or a SPIFFE id")
	cmd.Flags().StringVar(&to, "to", "", "destination: NAMESPACE/POD:PORT")
	cmd.Flags().BoolVar(&plaintext, "plaintext", false, "ask about a connection without mTLS")
	requestFlags(cmd, &request)
	_ = cmd.RegisterFlagCompletionFunc("from", a.completePods(-1))
	_ = cmd.RegisterFlagCompletionFunc("to", a.completePods(-1))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		req, err := authzRequest(from, to, plaintext)
		if err != nil {
			return err
		}
		req.Method, req.Path, req.Host, req.Headers, req.Claims = request.Method, request.Path, request.Host, request.Headers, request.Claims
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

// requestFlags are what may be said of a request.
func requestFlags(cmd *cobra.Command, r *adminv1.AuthzRequest) {
	cmd.Flags().StringVar(&r.Method, "method", "", "method of a request; GET if anything else is said of one")
	cmd.Flags().StringVar(&r.Path, "path", "", "path of a request")
	cmd.Flags().StringVar(&r.Host, "host", "", "host that a request is for")
	cmd.Flags().StringArrayVar(&r.Headers, "header", nil, "header of a request, 'NAME: VALUE'; may be repeated")
	cmd.Flags().StringArrayVar(&r.Claims, "claim", nil, "claim of its valid JWT, NAME=VALUE, such as iss, sub and aud; may be repeated")
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
	line("asks:", join(reply.Asks))
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
