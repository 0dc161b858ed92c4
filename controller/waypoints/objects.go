package waypoints

import (
	"fmt"
	"maps"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	autoscalingac "k8s.io/client-go/applyconfigurations/autoscaling/v2"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	policyac "k8s.io/client-go/applyconfigurations/policy/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// selector finds a waypoint's pods. It can never change: Deployments do not allow it.
func (w *want) selector() map[string]string {
	return map[string]string{LabelGateway: w.key.Name, LabelClass: Class}
}

// allLabels are those of every object: the Gateway's own choice first, ours over it.
func (w *want) allLabels() map[string]string {
	out := maps.Clone(w.labels)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, w.selector())
	out[managedBy], out[partOf] = managedByUs, "warren"
	return out
}

// owner makes an object go with its Gateway. It does not hold the Gateway's deletion up.
func (w *want) owner() *metaac.OwnerReferenceApplyConfiguration {
	return metaac.OwnerReference().WithAPIVersion(gatewayv1.GroupVersion.String()).WithKind("Gateway").
		WithName(w.key.Name).WithUID(w.uid).WithController(true)
}

func (w *want) serviceAccount() *coreac.ServiceAccountApplyConfiguration {
	return coreac.ServiceAccount(w.key.Name, w.key.Namespace).WithLabels(w.allLabels()).WithAnnotations(w.annotations).
		WithOwnerReferences(w.owner()).WithAutomountServiceAccountToken(false)
}

func (w *want) service() *coreac.ServiceApplyConfiguration {
	return coreac.Service(w.key.Name, w.key.Namespace).WithLabels(w.allLabels()).WithAnnotations(w.annotations).
		WithOwnerReferences(w.owner()).
		WithSpec(coreac.ServiceSpec().WithType(corev1.ServiceTypeClusterIP).WithSelector(w.selector()).
			WithIPFamilyPolicy(corev1.IPFamilyPolicyPreferDualStack).
			WithPorts(coreac.ServicePort().WithName("hbone").WithPort(PortHBONE).WithTargetPort(intstr.FromInt32(PortHBONE)).
				WithProtocol(corev1.ProtocolTCP).WithAppProtocol("hbone")))
}

func (w *want) budget() *policyac.PodDisruptionBudgetApplyConfiguration {
	// Not minAvailable: with one replica that would keep its node from ever being drained.
	return policyac.PodDisruptionBudget(w.key.Name, w.key.Namespace).WithLabels(w.allLabels()).
		WithAnnotations(w.annotations).WithOwnerReferences(w.owner()).
		WithSpec(policyac.PodDisruptionBudgetSpec().WithMaxUnavailable(intstr.FromInt32(1)).
			WithSelector(metaac.LabelSelector().WithMatchLabels(w.selector())))
}

// scaler is asked for if max is set.
func (w *want) scaler() *autoscalingac.HorizontalPodAutoscalerApplyConfiguration {
	load := autoscalingac.ResourceMetricSource().WithName(corev1.ResourceCPU).WithTarget(
		autoscalingac.MetricTarget().WithType(autoscalingv2.UtilizationMetricType).WithAverageUtilization(w.cpu))
	return autoscalingac.HorizontalPodAutoscaler(w.key.Name, w.key.Namespace).WithLabels(w.allLabels()).
		WithAnnotations(w.annotations).WithOwnerReferences(w.owner()).
		WithSpec(autoscalingac.HorizontalPodAutoscalerSpec().WithMinReplicas(w.replicas).WithMaxReplicas(w.max).
			WithScaleTargetRef(autoscalingac.CrossVersionObjectReference().WithAPIVersion("apps/v1").WithKind("Deployment").
				WithName(w.key.Name)).
			WithMetrics(autoscalingac.MetricSpec().WithType(autoscalingv2.ResourceMetricSourceType).WithResource(load)))
}

// roots belongs to every waypoint of its namespace.
func (c *Config) roots(namespace string, owners []*metaac.OwnerReferenceApplyConfiguration) *coreac.ConfigMapApplyConfiguration {
	return coreac.ConfigMap(Roots, namespace).
		WithLabels(map[string]string{managedBy: managedByUs, partOf: "warren", LabelClass: Class}).
		WithOwnerReferences(owners...).WithData(map[string]string{RootsKey: string(c.Roots)})
}

// deployment has no replicas if an autoscaler says how many: see scaled.
func (c *Config) deployment(w *want) *appsac.DeploymentApplyConfiguration {
	spec := appsac.DeploymentSpec().
		WithSelector(metaac.LabelSelector().WithMatchLabels(w.selector())).
		// The old pod goes once the new one is ready, so that there is never one less.
		WithStrategy(appsac.DeploymentStrategy().WithType(appsv1.RollingUpdateDeploymentStrategyType).
			WithRollingUpdate(appsac.RollingUpdateDeployment().WithMaxUnavailable(intstr.FromInt32(0)).
				WithMaxSurge(intstr.FromInt32(1)))).
		WithTemplate(c.pod(w))
	if w.max == 0 {
		spec.WithReplicas(w.replicas)
	}
	return appsac.Deployment(w.key.Name, w.key.Namespace).WithLabels(w.allLabels()).WithAnnotations(w.annotations).
		WithOwnerReferences(w.owner()).WithSpec(spec)
}

// scrape lets Prometheus find the metrics, as the chart does for agents and the controller.
func (w *want) podAnnotations() map[string]string {
	out := map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": fmt.Sprint(portMetrics)}
	maps.Copy(out, w.annotations)
	return out
}

// lameDuck is how long a pod that shall stop takes new connections all the same: until everybody has heard that it goes.
const lameDuck = 5 * time.Second

func (c *Config) pod(w *want) *coreac.PodTemplateSpecApplyConfiguration {
	podLabels := w.allLabels()
	podLabels[LabelWaypoint] = w.key.Name
	spec := coreac.PodSpec().WithServiceAccountName(w.key.Name).WithAutomountServiceAccountToken(false).
		WithTerminationGracePeriodSeconds(int64(math.Ceil((c.Template.Drain+lameDuck).Seconds()))+5).
		WithNodeSelector(map[string]string{corev1.LabelOSStable: "linux"}).
		WithSecurityContext(coreac.PodSecurityContext().WithRunAsNonRoot(true).WithRunAsUser(nonRoot).
			WithRunAsGroup(nonRoot).WithFSGroup(nonRoot).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithTopologySpreadConstraints(w.spread(corev1.LabelTopologyZone), w.spread(corev1.LabelHostname)).
		WithContainers(c.container(w)).
		WithVolumes(
			// In memory: it has the key of the pod's identity, over a restart of the process.
			coreac.Volume().WithName("state").WithEmptyDir(coreac.EmptyDirVolumeSource().WithMedium(corev1.StorageMediumMemory).
				WithSizeLimit(resource.MustParse("64Mi"))),
			coreac.Volume().WithName("roots").WithConfigMap(coreac.ConfigMapVolumeSource().WithName(Roots)),
			coreac.Volume().WithName("token").WithProjected(coreac.ProjectedVolumeSource().WithDefaultMode(0o440).
				WithSources(coreac.VolumeProjection().WithServiceAccountToken(coreac.ServiceAccountTokenProjection().
					WithPath("token").WithAudience(Audience).WithExpirationSeconds(3600)))))
	for _, name := range c.Template.PullSecrets {
		spec.WithImagePullSecrets(coreac.LocalObjectReference().WithName(name))
	}
	return coreac.PodTemplateSpec().WithLabels(podLabels).WithAnnotations(w.podAnnotations()).WithSpec(spec)
}

// nonRoot is the user of the image.
const nonRoot = 65532

// spread keeps pods of one version apart, as far as there is room.
func (w *want) spread(key string) *coreac.TopologySpreadConstraintApplyConfiguration {
	return coreac.TopologySpreadConstraint().WithMaxSkew(1).WithTopologyKey(key).WithWhenUnsatisfiable(corev1.ScheduleAnyway).
		WithLabelSelector(metaac.LabelSelector().WithMatchLabels(w.selector())).WithMatchLabelKeys("pod-template-hash")
}

func (c *Config) container(w *want) *coreac.ContainerApplyConfiguration {
	port := func(name string, number int32) *coreac.ContainerPortApplyConfiguration {
		return coreac.ContainerPort().WithName(name).WithContainerPort(number).WithProtocol(corev1.ProtocolTCP)
	}
	out := coreac.Container().WithName("waypoint").WithImage(c.Template.Image).WithArgs(c.args(w)...).
		WithEnv(environment()...).
		WithPorts(port("hbone", PortHBONE), port("metrics", portMetrics), port("health", portHealth)).
		WithStartupProbe(probe("/healthz", 1, 120, 1)).
		WithReadinessProbe(probe("/readyz", 2, 2, 2)).
		WithLivenessProbe(probe("/healthz", 10, 6, 5)).
		WithSecurityContext(coreac.SecurityContext().WithAllowPrivilegeEscalation(false).WithPrivileged(false).
			WithReadOnlyRootFilesystem(true).WithRunAsNonRoot(true).
			WithCapabilities(coreac.Capabilities().WithDrop("ALL")).
			WithSeccompProfile(coreac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))).
		WithResources(coreac.ResourceRequirements().WithRequests(c.Template.Resources.Requests).
			WithLimits(c.Template.Resources.Limits)).
		WithVolumeMounts(
			coreac.VolumeMount().WithName("state").WithMountPath("/run/warren"),
			coreac.VolumeMount().WithName("roots").WithMountPath("/etc/warren/roots").WithReadOnly(true),
			coreac.VolumeMount().WithName("token").WithMountPath("/var/run/secrets/warren").WithReadOnly(true))
	if c.Template.PullPolicy != "" {
		out.WithImagePullPolicy(c.Template.PullPolicy)
	}
	return out
}

// args are those of cmd/waypoint.
func (c *Config) args(w *want) []string {
	return append([]string{
		"--gateway=" + w.key.String(), "--namespace=$(POD_NAMESPACE)", "--pod=$(POD_NAME)", "--workload-uid=$(POD_UID)",
		"--service-account=" + w.key.Name, "--node=$(NODE_NAME)", "--state-dir=/run/warren/waypoint",
		"--controller=" + c.Controller, "--trust-domain=" + c.TrustDomain,
		"--trust-bundle=/etc/warren/roots/" + RootsKey, "--token-file=/var/run/secrets/warren/token",
		fmt.Sprintf("--listen=:%d", PortHBONE), fmt.Sprintf("--health-listen=:%d", portHealth),
		fmt.Sprintf("--metrics-listen=:%d", portMetrics), "--lame-duck=" + lameDuck.String(),
		"--drain=" + c.Template.Drain.String(),
	}, c.Template.Args...)
}

func environment() []*coreac.EnvVarApplyConfiguration {
	field := func(name, path string) *coreac.EnvVarApplyConfiguration {
		return coreac.EnvVar().WithName(name).WithValueFrom(coreac.EnvVarSource().WithFieldRef(
			coreac.ObjectFieldSelector().WithAPIVersion("v1").WithFieldPath(path)))
	}
	return []*coreac.EnvVarApplyConfiguration{
		field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
		field("POD_UID", "metadata.uid"),
		field("NODE_NAME", "spec.nodeName"),
		// Collect garbage harder rather than be killed at the limit.
		coreac.EnvVar().WithName("GOMEMLIMIT").WithValueFrom(coreac.EnvVarSource().WithResourceFieldRef(
			coreac.ResourceFieldSelector().WithContainerName("waypoint").WithResource("limits.memory"))),
	}
}

func probe(path string, period, failures, timeout int32) *coreac.ProbeApplyConfiguration {
	return coreac.Probe().WithPeriodSeconds(period).WithFailureThreshold(failures).WithTimeoutSeconds(timeout).
		WithHTTPGet(coreac.HTTPGetAction().WithPath(path).WithPort(intstr.FromInt32(portHealth)))
}
