package manifest

// Route is the spec of an HTTPRoute, a GRPCRoute, a TCPRoute or a TLSRoute: the fields of all of them, of which each has
// some.
type Route struct {
	ParentRefs []ParentRef `json:"parentRefs"`
	Hostnames  []string    `json:"hostnames"`
	Rules      []RouteRule `json:"rules"`
	// UseDefaultGateways is of no use to services.
	UseDefaultGateways string `json:"useDefaultGateways"`
}

// HasServiceParent tells whether the route is the mesh's business.
func (r *Route) HasServiceParent() bool {
	for i := range r.ParentRefs {
		if r.ParentRefs[i].IsService() {
			return true
		}
	}
	return false
}

// RouteRule is one rule.
type RouteRule struct {
	Name               string              `json:"name"`
	Matches            []RouteMatch        `json:"matches"`
	Filters            []RouteFilter       `json:"filters"`
	BackendRefs        []BackendRef        `json:"backendRefs"`
	Timeouts           *RouteTimeouts      `json:"timeouts"`
	Retry              *RouteRetry         `json:"retry"`
	SessionPersistence *SessionPersistence `json:"sessionPersistence"`
}

// RouteMatch matches requests. Method is a string in an HTTPRoute, and a service and a method in a GRPCRoute.
type RouteMatch struct {
	Path        *ValueMatch  `json:"path"`
	Headers     []ValueMatch `json:"headers"`
	QueryParams []ValueMatch `json:"queryParams"`
	Method      RouteMethod  `json:"method"`
}

// ValueMatch compares a path, a header or a query parameter. Type is Exact, RegularExpression, or for a path PathPrefix.
type ValueMatch struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// RouteMethod is what a match says about the method.
type RouteMethod struct {
	HTTP string
	GRPC *GRPCMethod
}

// GRPCMethod is a gRPC service's method.
type GRPCMethod struct {
	Type    string `json:"type"`
	Service string `json:"service"`
	Method  string `json:"method"`
}

// RouteFilter changes requests or their answers; Type says which of the other fields is there.
type RouteFilter struct {
	Type                   string           `json:"type"`
	RequestHeaderModifier  *HeaderModifier  `json:"requestHeaderModifier"`
	ResponseHeaderModifier *HeaderModifier  `json:"responseHeaderModifier"`
	RequestMirror          *RequestMirror   `json:"requestMirror"`
	RequestRedirect        *RequestRedirect `json:"requestRedirect"`
	URLRewrite             *URLRewrite      `json:"urlRewrite"`
	CORS                   *CORSFilter      `json:"cors"`
	// ExternalAuth and ExtensionRef are known, and not supported: requests that they are for are refused.
	ExternalAuth *Unread `json:"externalAuth"`
	ExtensionRef *Unread `json:"extensionRef"`
}

// HeaderModifier sets, adds and removes headers.
type HeaderModifier struct {
	Set    []HeaderValue `json:"set"`
	Add    []HeaderValue `json:"add"`
	Remove []string      `json:"remove"`
}

// HeaderValue is one header.
type HeaderValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// RequestMirror sends copies of requests.
type RequestMirror struct {
	BackendRef BackendRef `json:"backendRef"`
	Percent    *int32     `json:"percent"`
	Fraction   *Fraction  `json:"fraction"`
}

// Fraction is a part of all requests.
type Fraction struct {
	Numerator   int32  `json:"numerator"`
	Denominator *int32 `json:"denominator"` // nil: 100
}

// RequestRedirect answers with another place.
type RequestRedirect struct {
	Scheme     string        `json:"scheme"`
	Hostname   string        `json:"hostname"`
	Path       *PathModifier `json:"path"`
	Port       *uint16       `json:"port"`
	StatusCode *int32        `json:"statusCode"`
}

// URLRewrite changes what a backend is asked for.
type URLRewrite struct {
	Hostname string        `json:"hostname"`
	Path     *PathModifier `json:"path"`
}

// PathModifier replaces a path, or the prefix that matched.
type PathModifier struct {
	Type               string  `json:"type"`
	ReplaceFullPath    *string `json:"replaceFullPath"`
	ReplacePrefixMatch *string `json:"replacePrefixMatch"`
}

// CORSFilter says which other origins may ask.
type CORSFilter struct {
	AllowOrigins     []string `json:"allowOrigins"`
	AllowCredentials *bool    `json:"allowCredentials"`
	AllowMethods     []string `json:"allowMethods"`
	AllowHeaders     []string `json:"allowHeaders"`
	ExposeHeaders    []string `json:"exposeHeaders"`
	MaxAge           *int32   `json:"maxAge"` // seconds; nil: 5
}

// RouteTimeouts bound a request as a whole and each try at it.
type RouteTimeouts struct {
	Request        *Duration `json:"request"`
	BackendRequest *Duration `json:"backendRequest"`
}

// RouteRetry says when to try again.
type RouteRetry struct {
	Codes    []int32   `json:"codes"`
	Attempts *int32    `json:"attempts"`
	Backoff  *Duration `json:"backoff"`
}

// SessionPersistence keeps a client at one endpoint.
type SessionPersistence struct {
	SessionName     string    `json:"sessionName"`
	AbsoluteTimeout *Duration `json:"absoluteTimeout"`
	IdleTimeout     *Duration `json:"idleTimeout"`
	Type            string    `json:"type"` // Cookie, the default, or Header
	CookieConfig    *struct {
		LifetimeType string `json:"lifetimeType"` // Session, the default, or Permanent
	} `json:"cookieConfig"`
}

// Words that matches, filters and session persistence use.
const (
	MatchExact  = "Exact"
	MatchPrefix = "PathPrefix"
	MatchRegex  = "RegularExpression"

	FilterRequestHeaders  = "RequestHeaderModifier"
	FilterResponseHeaders = "ResponseHeaderModifier"
	FilterRedirect        = "RequestRedirect"
	FilterRewrite         = "URLRewrite"
	FilterMirror          = "RequestMirror"
	FilterCORS            = "CORS"
	FilterExternalAuth    = "ExternalAuth"
	FilterExtensionRef    = "ExtensionRef"

	ReplaceFullPath    = "ReplaceFullPath"
	ReplacePrefixMatch = "ReplacePrefixMatch"

	SessionCookie   = "Cookie"
	SessionHeader   = "Header"
	CookieSession   = "Session"
	CookiePermanent = "Permanent"
)
