package controller

import (
	"reflect"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/warren-mesh/warren/controller/compile"
	"github.com/warren-mesh/warren/controller/kube"
	"github.com/warren-mesh/warren/controller/manifest"
)

func TestWhatIsSaidOfARoute(t *testing.T) {
	key := manifest.Key{Kind: manifest.KindHTTPRoute, Namespace: "shop", Name: "r"}
	ref := manifest.ParentRef{Name: "web"}
	compiled := compile.RouteStatus{Key: key, UID: "u", Generation: 3, Parents: []compile.ParentStatus{{
		Ref: ref, Conditions: []compile.RouteCondition{{Type: "Accepted", Status: true, Reason: "Accepted", Message: "attached"}},
	}}}
	attached := []kube.RouteParent{{Ref: ref, Conditions: []metav1.Condition{{
		Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", Message: "attached",
	}}}}
	for name, row := range map[string]struct {
		route    kube.Route
		compiled compile.RouteStatus
		want     []kube.RouteParent
		known    bool
	}{
		"attached":                             {kube.Route{Key: key, UID: "u", Generation: 3}, compiled, attached, true},
		"changed since it was compiled":        {kube.Route{Key: key, UID: "u", Generation: 4}, compiled, nil, false},
		"made anew since it was compiled":      {kube.Route{Key: key, UID: "v", Generation: 3}, compiled, nil, false},
		"rejected, with what it said in force": {kube.Route{Key: key, UID: "u", Generation: 4, Rejected: "no"}, compiled, nil, true},
		"another controller's":                 {kube.Route{Key: key, UID: "u", Generation: 3}, compile.RouteStatus{}, nil, false},
		"no parent of ours any more":           {kube.Route{Key: key, UID: "u", Generation: 3, Stated: true}, compile.RouteStatus{}, nil, true},
	} {
		got, known := wantedParents(row.route, row.compiled)
		if known != row.known || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%s: got %+v, %v", name, got, known)
		}
	}
}
