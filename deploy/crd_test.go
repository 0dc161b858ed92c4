package deploy_test

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/warren-mesh/warren/api/v1alpha1"
	"github.com/warren-mesh/warren/controller/manifest"
	"github.com/warren-mesh/warren/deploy"
	"github.com/warren-mesh/warren/internal/release"
)

// loadCRDs reads the CRDs as the API server does, by kind, with the defaults that it fills in.
func loadCRDs(t *testing.T) map[string]*apiextensions.CustomResourceDefinition {
	t.Helper()
	files, err := fs.Glob(deploy.Chart(), "files/crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{apiextensions.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	out := make(map[string]*apiextensions.CustomResourceDefinition)
	for _, name := range files {
		raw, err := fs.ReadFile(deploy.Chart(), name)
		if err != nil {
			t.Fatal(err)
		}
		var v1 apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(raw, &v1); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		scheme.Default(&v1)
		internal := new(apiextensions.CustomResourceDefinition)
		if err := scheme.Convert(&v1, internal, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		internal.Status.StoredVersions = []string{"v1alpha1"}
		out[v1.Spec.Names.Kind] = internal
	}
	return out
}

// TestCRDsAreAccepted runs the API server's own checks: structure, and the cost of every CEL rule.
func TestCRDsAreAccepted(t *testing.T) {
	crds := loadCRDs(t)
	if got := slices.Sorted(maps.Keys(crds)); !slices.Equal(got, []string{v1alpha1.KindAuthorizationPolicy, v1alpha1.KindPeerAuthentication, v1alpha1.KindRequestAuthentication, v1alpha1.KindTrafficPolicy}) {
		t.Fatalf("CRDs are of %v", got)
	}
	chart, err := release.Chart()
	if err != nil {
		t.Fatal(err)
	}
	for kind, crd := range crds {
		for _, err := range crdvalidation.ValidateCustomResourceDefinition(context.Background(), crd) {
			t.Errorf("%s: %v", kind, err)
		}
		if crd.Annotations[release.CRDRevision] != chart.Metadata.Annotations[release.CRDRevision] {
			t.Errorf("%s has revision %q, the chart says %q", kind, crd.Annotations[release.CRDRevision], chart.Metadata.Annotations[release.CRDRevision])
		}
		if crd.Annotations["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s would be deleted with the release, and every policy with it", kind)
		}
	}
}

// TestSchemaIsThatOfTheTypes compares CRD schema and Go types field by field, both ways.
func TestSchemaIsThatOfTheTypes(t *testing.T) {
	crds := loadCRDs(t)
	for kind, spec := range map[string]reflect.Type{
		v1alpha1.KindAuthorizationPolicy: reflect.TypeFor[v1alpha1.AuthorizationPolicySpec](),
		v1alpha1.KindPeerAuthentication:  reflect.TypeFor[v1alpha1.PeerAuthenticationSpec](),
		v1alpha1.KindTrafficPolicy:       reflect.TypeFor[v1alpha1.TrafficPolicySpec](),

		v1alpha1.KindRequestAuthentication: reflect.TypeFor[v1alpha1.RequestAuthenticationSpec](),
	} {
		root := crds[kind].Spec.Validation.OpenAPIV3Schema
		for _, difference := range compare(kind+".spec", root.Properties["spec"], spec) {
			t.Error(difference)
		}
	}
}

// compare says where a schema and a type differ. A schema may have more fields only if a rule refuses them.
func compare(path string, s apiextensions.JSONSchemaProps, of reflect.Type) []string {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of == reflect.TypeFor[v1alpha1.Port]() {
		return mismatch(path, "a port", !s.XIntOrString)
	}
	if of == reflect.TypeFor[v1alpha1.Percent]() {
		return mismatch(path, "a percentage", !s.XIntOrString || s.Maximum == nil || *s.Maximum != 100)
	}
	switch of.Kind() {
	case reflect.String:
		return append(mismatch(path, "string", s.Type != "string"), mismatch(path, "bounded", s.MaxLength == nil && s.Enum == nil)...)
	case reflect.Bool:
		return mismatch(path, "boolean", s.Type != "boolean")
	case reflect.Int32:
		return append(mismatch(path, "integer", s.Type != "integer"), mismatch(path, "bounded", s.Minimum == nil || s.Maximum == nil)...)
	case reflect.Slice:
		found := append(mismatch(path, "array", s.Type != "array"), mismatch(path, "bounded", s.MaxItems == nil)...)
		return append(found, compare(path+"[]", *s.Items.Schema, of.Elem())...)
	case reflect.Map:
		found := append(mismatch(path, "object", s.Type != "object"), mismatch(path, "bounded", s.MaxProperties == nil)...)
		return append(found, compare(path+"{}", *s.AdditionalProperties.Schema, of.Elem())...)
	case reflect.Struct:
		return append(mismatch(path, "object", s.Type != "object"), compareFields(path, s, of)...)
	}
	return []string{path + ": a type that this test does not know: " + of.String()}
}

func compareFields(path string, s apiextensions.JSONSchemaProps, of reflect.Type) (found []string) {
	left := maps.Clone(s.Properties)
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		p, ok := left[name]
		if !ok {
			found = append(found, path+"."+name+": the type has it, the schema does not: the API server would drop it")
			continue
		}
		delete(left, name)
		found = append(found, compare(path+"."+name, p, of.Field(i).Type)...)
	}
	for name := range left {
		refused := slices.ContainsFunc(s.XValidations, func(r apiextensions.ValidationRule) bool { return r.Rule == "!has(self."+name+")" })
		if !refused {
			found = append(found, path+"."+name+": the schema has it, the type does not: nobody would act upon it")
		}
	}
	return found
}

func mismatch(path, want string, is bool) []string {
	if is {
		return []string{path + ": the schema is not " + want}
	}
	return nil
}

// TestCompareSeesDifferences: a check counts once it has been seen to fail.
func TestCompareSeesDifferences(t *testing.T) {
	one := int64(1)
	s := apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{
		"ports": {Type: "array", MaxItems: &one, Items: &apiextensions.JSONSchemaPropsOrArray{Schema: &apiextensions.JSONSchemaProps{Type: "string"}}},
		"extra": {Type: "string"},
	}}
	want := []string{
		"x.ports[]: the schema is not a port",
		"x.notPorts: the type has it, the schema does not: the API server would drop it",
		"x.hosts: the type has it, the schema does not: the API server would drop it",
		"x.notHosts: the type has it, the schema does not: the API server would drop it",
		"x.methods: the type has it, the schema does not: the API server would drop it",
		"x.notMethods: the type has it, the schema does not: the API server would drop it",
		"x.paths: the type has it, the schema does not: the API server would drop it",
		"x.notPaths: the type has it, the schema does not: the API server would drop it",
		"x.extra: the schema has it, the type does not: nobody would act upon it",
	}
	if got := compare("x", s, reflect.TypeFor[v1alpha1.Operation]()); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// apiServer answers for one kind as the API server would.
type apiServer struct {
	structural *schema.Structural
	basic      validation.SchemaValidator
	rules      *cel.Validator
}

func newAPIServer(t *testing.T, crd *apiextensions.CustomResourceDefinition) apiServer {
	t.Helper()
	basic, _, err := validation.NewSchemaValidator(crd.Spec.Validation.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	structural, err := schema.NewStructural(crd.Spec.Validation.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	return apiServer{structural, basic, cel.NewValidator(structural, true, math.MaxInt64)}
}

// create returns what is wrong with an object; kubectl's strict validation refuses unknown fields.
func (a apiServer) create(obj map[string]any) (found []string) {
	unknown := pruning.PruneWithOptions(obj, a.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, u := range unknown {
		found = append(found, u+": unknown field")
	}
	defaulting.Default(obj, a.structural)
	errs := validation.ValidateCustomResource(nil, obj, a.basic)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, a.structural, obj)...)
	if len(errs) == 0 {
		more, _ := a.rules.Validate(context.Background(), field.NewPath("root"), a.structural, obj, nil, math.MaxInt64)
		errs = append(errs, more...)
	}
	for _, err := range errs {
		found = append(found, err.Error())
	}
	return found
}

// controllerRefuses is what reading the same text as a manifest says.
func controllerRefuses(t *testing.T, text []byte) []string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Fatal(err)
	}
	return manifest.NewLoader(manifest.Config{Roots: []string{name}}).Load().Rejected
}

// TestSchemaAndControllerAgree: what the controller refuses in a policy, the API server refuses already, and the other
// way round; first on the bad manifests of controller/manifest, then on this package's own.
func TestSchemaAndControllerAgree(t *testing.T) {
	crds := loadCRDs(t)
	servers := make(map[string]apiServer)
	for kind, crd := range crds {
		servers[kind] = newAPIServer(t, crd)
	}
	seen := 0
	for _, archive := range []string{"../controller/manifest/testdata/errors.txtar", "testdata/policies.txtar", "testdata/traffic.txtar"} {
		files, err := txtar.ParseFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files.Files {
			var obj map[string]any
			server, ok := policyIn(f.Data, servers, &obj)
			if !ok {
				continue
			}
			seen++
			t.Run(f.Name, func(t *testing.T) {
				api, controller := server.create(obj), controllerRefuses(t, f.Data)
				if (len(api) == 0) != (len(controller) == 0) {
					t.Errorf("the API server says %q, the controller %q", api, controller)
				}
				if want, ok := expected(f.Data); ok && (len(api) > 0) != want {
					t.Errorf("the API server says %q", api)
				}
			})
		}
	}
	if seen < 40 {
		t.Errorf("only %d policies were compared", seen)
	}
}

// policyIn decodes text if it is one policy of the right version. Text that is no such YAML is nothing for a schema.
func policyIn(text []byte, servers map[string]apiServer, into *map[string]any) (apiServer, bool) {
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		return apiServer{}, false
	}
	if (*into)["apiVersion"] != v1alpha1.APIVersion {
		return apiServer{}, false
	}
	server, ok := servers[fmt.Sprint((*into)["kind"])]
	return server, ok
}

// expected reads the first line of an example: "# good" or "# bad".
func expected(text []byte) (bad, ok bool) {
	line, _, _ := strings.Cut(string(text), "\n")
	return line == "# bad", line == "# bad" || line == "# good"
}
