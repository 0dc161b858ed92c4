package waypoints

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// Features are the features of the Gateway API that waypoints have, in order. The GatewayClass says them, and whoever
// claims more or fewer has to change them here.
func Features() []gatewayv1.FeatureName {
	var out []gatewayv1.FeatureName
	for _, name := range []features.FeatureName{
		features.SupportMesh, features.SupportHTTPRoute, features.SupportGRPCRoute, features.SupportReferenceGrant,

		features.SupportMeshClusterIPMatching, features.SupportMeshConsumerRoute, features.SupportMeshHTTPRouteRewritePath,
		features.SupportMeshHTTPRouteSchemeRedirect, features.SupportMeshHTTPRouteRedirectPort,
		features.SupportMeshHTTPRouteRedirectPath, features.SupportMeshHTTPRouteBackendRequestHeaderModification,
		features.SupportMeshHTTPRouteQueryParamMatching, features.SupportMeshHTTPRouteNamedRouteRule,

		features.SupportHTTPRouteBackendRequestHeaderModification, features.SupportHTTPRouteQueryParamMatching,
		features.SupportHTTPRouteMethodMatching, features.SupportHTTPRouteResponseHeaderModification,
		features.SupportHTTPRoutePortRedirect, features.SupportHTTPRouteSchemeRedirect, features.SupportHTTPRoutePathRedirect,
		features.SupportHTTPRouteHostRewrite, features.SupportHTTPRoutePathRewrite, features.SupportHTTPRouteRequestMirror,
		features.SupportHTTPRouteRequestMultipleMirrors, features.SupportHTTPRouteRequestPercentageMirror,
		features.SupportHTTPRouteRequestTimeout, features.SupportHTTPRouteBackendTimeout, features.SupportHTTPRouteParentRefPort,
		features.SupportHTTPRouteBackendProtocolH2C, features.SupportHTTPRouteBackendProtocolWebSocket,
		features.SupportHTTPRouteNamedRouteRule, features.SupportHTTPRouteCORS,
		features.SupportHTTPRoute303RedirectStatusCode, features.SupportHTTPRoute307RedirectStatusCode,
		features.SupportHTTPRoute308RedirectStatusCode, features.SupportHTTPRouteRetry,
		features.SupportHTTPRouteRetryBackendTimeout, features.SupportHTTPRouteRetryConnectionError,

		features.SupportGRPCRouteNamedRouteRule,
	} {
		out = append(out, gatewayv1.FeatureName(name))
	}
	slices.Sort(out)
	return out
}

// supportedFeatures are Features as a GatewayClass's status has them.
func supportedFeatures() []gatewayv1.SupportedFeature {
	var out []gatewayv1.SupportedFeature
	for _, name := range Features() {
		out = append(out, gatewayv1.SupportedFeature{Name: name})
	}
	return out
}
