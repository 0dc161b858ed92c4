package conformance

import (
	"slices"
	"testing"

	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// core are the features that the profiles switch on by themselves.
var core = []features.FeatureName{features.SupportMesh, features.SupportHTTPRoute, features.SupportGRPCRoute}

func meshTests() (out []suite.ConformanceTest) {
	for _, test := range tests.ConformanceTests {
		if slices.Contains(test.Features, features.SupportMesh) {
			out = append(out, test)
		}
	}
	return out
}

// A new version of the suite may have tests of new features: they are not to be passed over in silence.
func TestEveryFeatureThatAMeshIsTestedForIsOnOrOffForAReason(t *testing.T) {
	all := meshTests()
	if len(all) < 20 {
		t.Fatalf("the suite has %d tests of a mesh; it had 21", len(all))
	}
	for _, test := range all {
		for _, f := range test.Features {
			on, why := slices.Contains(On(), f) || slices.Contains(core, f), Off()[f]
			if on == (why != "") {
				t.Errorf("%s asks for %s, which is on: %t, off because %q", test.ShortName, f, on, why)
			}
		}
	}
	for f := range features.MeshExtendedFeatures {
		if on, why := slices.Contains(On(), f.Name), Off()[f.Name]; on == (why != "") {
			t.Errorf("%s is of the mesh profiles, and is on: %t, off because %q", f.Name, on, why)
		}
	}
}
