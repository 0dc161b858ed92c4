// Package conformance runs the Gateway API's own conformance suite against Warren on a real cluster: `make conformance`.
// It is a module of its own, and decides only what is asked of the suite.
package conformance

import "sigs.k8s.io/gateway-api/pkg/features"

// On are the features beyond the core that Warren claims: of what the suite has a test for in a mesh, everything. What
// the profiles MESH-HTTP and MESH-GRPC do not count is run all the same.
func On() []features.FeatureName {
	return []features.FeatureName{
		// Extended features of the mesh profiles.
		features.SupportMeshClusterIPMatching,
		features.SupportMeshConsumerRoute,
		features.SupportMeshHTTPRouteRewritePath,
		features.SupportMeshHTTPRouteSchemeRedirect,
		features.SupportMeshHTTPRouteRedirectPort,
		features.SupportMeshHTTPRouteRedirectPath,
		features.SupportMeshHTTPRouteBackendRequestHeaderModification,
		features.SupportMeshHTTPRouteQueryParamMatching,
		features.SupportMeshHTTPRouteNamedRouteRule,

		// Extended features of HTTPRoute that tests of a mesh need, and the report does not count.
		features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRouteResponseHeaderModification,
		features.SupportHTTPRoute303RedirectStatusCode,
		features.SupportHTTPRoute307RedirectStatusCode,
		features.SupportHTTPRoute308RedirectStatusCode,
	}
}

// Off is why the suite's tests of a feature are not run, for each feature that a test of a mesh asks for and that On does
// not have.
func Off() map[features.FeatureName]string {
	return map[features.FeatureName]string{}
}
