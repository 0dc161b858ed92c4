package policy

var (
	fuzzTargets           = []string{"Service shop/web", "Gateway shop/wp"}
	fuzzAuthorizers       = []ExternalAuthorizer{{Service: "auth/opa", Port: 1}, {Service: "auth/opa", Port: 2}, {Broken: "gone"}}
	fuzzRequestPrincipals = []string{"https://id/ann", "https://id/*", "*/ann", "*", "https://id/bob", "*n", "h*"}
	fuzzHosts             = []string{"web.shop", "*.shop", "WEB.*", "*", "2001:db8::7", "web.shop."}
	fuzzMethods           = []string{"GET", "get", "P*", "*T", "*"}
	fuzzPaths             = []string{"/", "/api/*", "*.js", "/api/{*}/x", "/api/{**}", "/{*}/{**}/x", "/{**}", "/api", "/%61pi"}
	fuzzKeys              = []string{"request.headers[x-role]", "request.headers[X-Other]", "request.auth.claims[groups]", "request.auth.claims[a][b]",
		"request.auth.claims[scope]", "request.auth.audiences", "request.auth.presenter", "request.auth.principal", "source.namespace",
		"source.principal", "source.ip", "destination.port"}
	fuzzValues = []string{"admin", "a*", "*n", "*", "a,b", "ops", "true", "3", "read", "a", "a b"}
	fuzzLines  = []string{"admin", "a", "b", "a,b", "user, admin", "", "ops"}
	fuzzClaims = []any{"admin", "a", "a b", true, 3.0, []any{"ops", "a"}, []any{"ops", map[string]any{}}, map[string]any{"b": "admin"}, nil,
		map[string]any{"b": []any{"a", true}}, "read a"}
)

// rarely is some for one list of four.
func rarely(c *chooser, pool []string) []string {
	if c.below(4) != 3 {
		return nil
	}
	return some(c, pool)
}

func (c *chooser) condition() Condition {
	w := Condition{Key: fuzzKeys[c.below(len(fuzzKeys))]}
	pool := map[string][]string{"request.auth.principal": fuzzRequestPrincipals, "source.namespace": fuzzNamespaces,
		"source.principal": fuzzPrincipals, "source.ip": {"10.0.0.0/8", "10.1.2.3", "2001:db8::7", "::/0"}, "destination.port": {"80", "443"}}[w.Key]
	if pool == nil {
		pool = fuzzValues
	}
	w.Values, w.NotValues = some(c, pool), some(c, pool)
	return w
}

func (c *chooser) request() *Request {
	if c.below(5) == 4 {
		return nil
	}
	pick := func(pool ...string) string { return pool[c.below(len(pool))] }
	r := &Request{
		Method: pick("GET", "POST", "get", ""), Host: pick("web.shop", "WEB.shop.:80", "db.shop:80", "[2001:DB8::7]:80", "2001:db8::7", ""),
		Path: pick("/", "/api", "/api/", "/api/a/x", "/api//x", "/app.js", ""),
	}
	r.Header = map[string][]string{"X-Role": some(c, fuzzLines), "X-Other": some(c, fuzzLines)}
	if c.below(3) > 0 {
		r.Token = Token{Issuer: "https://id", Subject: pick("ann", "bob", ""), Audiences: some(c, fuzzValues), Presenter: pick("", "a", "admin")}
		r.Token.Claims = map[string]any{"groups": fuzzClaims[c.below(len(fuzzClaims))], "a": fuzzClaims[c.below(len(fuzzClaims))], "scope": "read a"}
	}
	for range c.below(3) {
		r.Passed = append(r.Passed, fuzzAuthorizers[c.below(len(fuzzAuthorizers))])
	}
	return r
}
