package compile

import (
	"cmp"
	"fmt"

	"github.com/warren-mesh/warren/api/meshv1"
	"github.com/warren-mesh/warren/controller/manifest"
)

const (
	defaultRedirect   = 302
	defaultCORSMaxAge = 5 // seconds, the Gateway API's
)

// filterer makes the filters of one rule and of its backends, and collects those that no waypoint has: a request that
// they are for must be refused rather than go on without them.
type filterer struct {
	route       *route
	refs        *references
	unsupported []finding
}

// wire makes a list of filters, nil if it is empty.
func (f *filterer) wire(path string, filters []manifest.RouteFilter) *meshv1.RouteFilters {
	if len(filters) == 0 {
		return nil
	}
	wire := &meshv1.RouteFilters{}
	for i := range filters {
		f.add(wire, fmt.Sprintf("%s.filters[%d]", path, i), &filters[i])
	}
	return wire
}

func (f *filterer) add(wire *meshv1.RouteFilters, path string, filter *manifest.RouteFilter) {
	switch filter.Type {
	case manifest.FilterRequestHeaders:
		wire.RequestHeaders = wireModifier(filter.RequestHeaderModifier)
	case manifest.FilterResponseHeaders:
		wire.ResponseHeaders = wireModifier(filter.ResponseHeaderModifier)
	case manifest.FilterRedirect:
		wire.Redirect = wireRedirect(filter.RequestRedirect)
	case manifest.FilterRewrite:
		wire.Rewrite = &meshv1.Rewrite{Hostname: filter.URLRewrite.Hostname, Path: wirePathChange(filter.URLRewrite.Path)}
	case manifest.FilterMirror:
		wire.Mirrors = append(wire.Mirrors, f.mirror(path, filter.RequestMirror))
	case manifest.FilterCORS:
		wire.Cors = wireCORS(filter.CORS)
	case manifest.FilterExtensionRef:
		// A reference to a filter of which there is no kind: the Gateway API counts it among both.
		why := "the mesh has no filters of its own that could be referred to"
		f.route.unresolved = append(f.route.unresolved, finding{ReasonInvalidKind, path, why})
		f.unsupported = append(f.unsupported, finding{ReasonUnsupportedValue, path, why})
	default:
		f.unsupported = append(f.unsupported, finding{ReasonUnsupportedValue, path, fmt.Sprintf("filter %q is not supported", filter.Type)})
	}
}

func wireModifier(m *manifest.HeaderModifier) *meshv1.HeaderModifier {
	return &meshv1.HeaderModifier{Set: wireHeaders(m.Set), Add: wireHeaders(m.Add), Remove: lowered(m.Remove)}
}

func wireHeaders(all []manifest.HeaderValue) []*meshv1.Header {
	var out []*meshv1.Header
	for _, h := range all {
		out = append(out, &meshv1.Header{Name: h.Name, Value: h.Value})
	}
	return out
}

func wireRedirect(r *manifest.RequestRedirect) *meshv1.Redirect {
	wire := &meshv1.Redirect{Scheme: r.Scheme, Hostname: r.Hostname, Path: wirePathChange(r.Path), Status: defaultRedirect}
	if r.Port != nil {
		wire.Port = uint32(*r.Port)
	}
	if r.StatusCode != nil {
		wire.Status = uint32(*r.StatusCode)
	}
	return wire
}

func wirePathChange(m *manifest.PathModifier) *meshv1.PathChange {
	switch {
	case m == nil:
		return nil
	case m.Type == manifest.ReplaceFullPath:
		return &meshv1.PathChange{Kind: meshv1.PathChange_FULL, Value: *m.ReplaceFullPath}
	}
	return &meshv1.PathChange{Kind: meshv1.PathChange_PREFIX, Value: *m.ReplacePrefixMatch}
}

func (f *filterer) mirror(path string, m *manifest.RequestMirror) *meshv1.Mirror {
	t := f.refs.resolve(f.route, path+".requestMirror.backendRef", &m.BackendRef)
	wire := &meshv1.Mirror{Service: t.service, Port: t.port, Numerator: 1, Denominator: 1, Broken: t.broken}
	switch {
	case m.Percent != nil:
		wire.Numerator, wire.Denominator = uint32(*m.Percent), 100
	case m.Fraction != nil:
		wire.Numerator, wire.Denominator = uint32(m.Fraction.Numerator), 100
		if m.Fraction.Denominator != nil {
			wire.Denominator = uint32(*m.Fraction.Denominator)
		}
	}
	return wire
}

func wireCORS(c *manifest.CORSFilter) *meshv1.CORS {
	wire := &meshv1.CORS{
		AllowOrigins: c.AllowOrigins, AllowMethods: c.AllowMethods, AllowHeaders: c.AllowHeaders,
		ExposeHeaders: c.ExposeHeaders, MaxAgeSeconds: defaultCORSMaxAge,
	}
	wire.AllowCredentials = c.AllowCredentials != nil && *c.AllowCredentials
	if c.MaxAge != nil {
		wire.MaxAgeSeconds = uint32(cmp.Or(*c.MaxAge, defaultCORSMaxAge))
	}
	return wire
}
