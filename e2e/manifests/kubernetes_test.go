package manifests

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// examples is the folder of them, seen from here.
const examples = "../../examples"

// built are the objects of a kustomization.
type built struct {
	configMaps  map[string]*corev1.ConfigMap // these two by namespace/name
	secrets     map[string]*corev1.Secret
	namespaces  map[string]*corev1.Namespace
	deployments []*appsv1.Deployment
	services    []*corev1.Service
	policies    []*networkingv1.NetworkPolicy
	budgets     []*policyv1.PodDisruptionBudget
}

// build does what `kubectl apply --kustomize` does before it asks a server, and then
// reads what came of it as the server does, with unknown and repeated fields refused.
// It sees files that are not in the repository, since they hold keys.
func build(folder string, replace ...string) (*built, error) {
	disk := filesys.MakeFsInMemory()
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	files := map[string]string{"master.key": "key", "ca.crt": "certificate", "ca.key": "key of the certificate"}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		files[entry.Name()] = strings.NewReplacer(replace...).Replace(string(text))
	}
	for name, text := range files {
		if err := disk.WriteFile("/in/"+name, []byte(text)); err != nil {
			return nil, err
		}
	}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, "/in")
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	b := &built{
		configMaps: make(map[string]*corev1.ConfigMap), secrets: make(map[string]*corev1.Secret), namespaces: make(map[string]*corev1.Namespace),
	}
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", resource.CurId(), err)
		}
		switch o := object.(type) {
		case *corev1.ConfigMap:
			b.configMaps[o.Namespace+"/"+o.Name] = o
		case *corev1.Secret:
			b.secrets[o.Namespace+"/"+o.Name] = o
		case *corev1.Namespace:
			b.namespaces[o.Name] = o
		case *appsv1.Deployment:
			b.deployments = append(b.deployments, o)
		case *corev1.Service:
			b.services = append(b.services, o)
		case *networkingv1.NetworkPolicy:
			b.policies = append(b.policies, o)
		case *policyv1.PodDisruptionBudget:
			b.budgets = append(b.budgets, o)
		default:
			return nil, fmt.Errorf("%s: a kind that no test looks at", resource.CurId())
		}
	}
	return b, nil
}

func mustBuild(t *testing.T, variant string) *built {
	t.Helper()
	b, err := build(filepath.Join(examples, "kubernetes", variant))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestKubernetesSchemas is the control of the others: what is wrong does not pass.
func TestKubernetesSchemas(t *testing.T) {
	for _, tt := range []struct {
		name, variant, old, new, want string
	}{
		{"a field that does not exist", "egress", "readOnlyRootFilesystem:", "readonlyRootFilesystem:", `unknown field "spec.template.spec.containers[0].securityContext.readonlyRootFilesystem"`},
		{"a field in the wrong place", "egress", "  strategy:\n    rollingUpdate:\n", "  rollingUpdate:\n", `unknown field "spec.rollingUpdate"`},
		{"a value of another type", "egress", "replicas: 2", "replicas: two", "spec.replicas of type int32"},
		{"a kind that does not exist", "egress", "kind: NetworkPolicy", "kind: NetworkPolice", "NetworkPolice"},
		{"a version that is gone", "sidecar", "apiVersion: apps/v1", "apiVersion: apps/v1beta1", "apps/v1beta1"},
		{"a file that does not exist", "sidecar", "- Caddyfile", "- Cadyfile", "Cadyfile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := build(filepath.Join(examples, "kubernetes", tt.variant), tt.old, tt.new)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %s", err, tt.want)
			}
		})
	}
}

// TestKubernetesPods holds the pods against what their namespaces enforce, and
// against what is theirs alone.
func TestKubernetesPods(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{"sidecar", "egress"} {
		b := mustBuild(t, variant)
		proxies, agents := 0, 0
		for _, deployment := range b.deployments {
			pod := deployment.Spec.Template
			name := variant + "/" + deployment.Name
			enforced := b.namespaces[deployment.Namespace].Labels[api.EnforceLevelLabel]
			if enforced != string(api.LevelRestricted) {
				t.Errorf("%s: got level %q enforced in its namespace, want restricted", name, enforced)
			}
			result := policy.AggregateCheckResults(evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}, &pod.ObjectMeta, &pod.Spec))
			if !result.Allowed {
				t.Errorf("%s is not to be admitted: %s", name, result.ForbiddenDetail())
			}
			if share := pod.Spec.ShareProcessNamespace; share != nil && *share {
				t.Errorf("%s: its containers see each other's processes", name)
			}
			if mount := pod.Spec.AutomountServiceAccountToken; mount == nil || *mount {
				t.Errorf("%s has an account of the API server", name)
			}
			users := make(map[int64]string)
			for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
				b.checkMounts(t, name, deployment.Namespace, pod.Spec, container)
				user := *cmp.Or(container.SecurityContext.RunAsUser, pod.Spec.SecurityContext.RunAsUser)
				if other, taken := users[user]; taken {
					t.Errorf("%s: %s and %s run as the same user", name, container.Name, other)
				}
				users[user] = container.Name
				key := mounts(pod.Spec, container, "starpod-key")
				switch container.Name {
				case "proxy":
					proxies++
					if !key {
						t.Errorf("%s: the proxy has no key", name)
					}
					if read := container.SecurityContext.ReadOnlyRootFilesystem; read == nil || !*read {
						t.Errorf("%s: the proxy can write to its root file system", name)
					}
					if pod.Spec.SecurityContext.FSGroup == nil {
						t.Errorf("%s: the proxy's user cannot read the key, which is root's", name)
					}
				case "agent":
					agents++
					if key || mounts(pod.Spec, container, "starpod-ca") && variant == "sidecar" || mountsVolume(container, "data") {
						t.Errorf("%s: the agent has a key", name)
					}
					b.checkClient(t, name, deployment.Namespace, container)
				default:
					t.Errorf("%s: a container %q that no test looks at", name, container.Name)
				}
			}
		}
		if proxies != 1 || agents != 1 {
			t.Errorf("%s: got %d proxies and %d agents, want one of each", variant, proxies, agents)
		}
	}
}

func mountsVolume(container corev1.Container, volume string) bool {
	return slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume })
}

// mounts reports whether a container has a Secret, by a volume or a variable.
func mounts(pod corev1.PodSpec, container corev1.Container, secret string) bool {
	for _, volume := range pod.Volumes {
		if volume.Secret != nil && strings.HasPrefix(volume.Secret.SecretName, secret) && mountsVolume(container, volume.Name) {
			return true
		}
	}
	for _, variable := range container.Env {
		if from := variable.ValueFrom; from != nil && from.SecretKeyRef != nil && strings.HasPrefix(from.SecretKeyRef.Name, secret) {
			return true
		}
	}
	return slices.ContainsFunc(container.EnvFrom, func(from corev1.EnvFromSource) bool {
		return from.SecretRef != nil && strings.HasPrefix(from.SecretRef.Name, secret)
	})
}

// checkMounts sees that all that a container mounts is there, and its files closed.
func (b *built) checkMounts(t *testing.T, name, namespace string, pod corev1.PodSpec, container corev1.Container) {
	t.Helper()
	for _, mount := range container.VolumeMounts {
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if i < 0 {
			t.Errorf("%s: %s mounts %s, which is no volume", name, container.Name, mount.Name)
			continue
		}
		switch source := pod.Volumes[i]; {
		case source.ConfigMap != nil:
			if _, found := b.configMaps[namespace+"/"+source.ConfigMap.Name]; !found {
				t.Errorf("%s: there is no ConfigMap %s", name, source.ConfigMap.Name)
			}
		case source.Secret != nil:
			if _, found := b.secrets[namespace+"/"+source.Secret.SecretName]; !found {
				t.Errorf("%s: there is no Secret %s", name, source.Secret.SecretName)
			}
			if mode := source.Secret.DefaultMode; mode == nil || *mode != 0o400 {
				t.Errorf("%s: the files of %s are open to others", name, source.Secret.SecretName)
			}
		case source.EmptyDir == nil:
			t.Errorf("%s: the volume %s is of a kind that no test looks at", name, source.Name)
		}
	}
	for _, from := range container.EnvFrom {
		if _, found := b.configMaps[namespace+"/"+from.ConfigMapRef.Name]; !found {
			t.Errorf("%s: there is no ConfigMap %s", name, from.ConfigMapRef.Name)
		}
	}
}

// checkClient sees that an agent is led to the proxy, and finds its certificate.
func (b *built) checkClient(t *testing.T, name, namespace string, container corev1.Container) {
	t.Helper()
	variables := make(map[string]string)
	for _, from := range container.EnvFrom {
		for key, value := range b.configMaps[namespace+"/"+from.ConfigMapRef.Name].Data {
			variables[key] = value
		}
	}
	for _, variable := range container.Env {
		variables[variable.Name] = variable.Value
	}
	address := "http://127.0.0.1:8080"
	for _, service := range b.services {
		address = fmt.Sprintf("http://%s:%d", service.Spec.ClusterIP, service.Spec.Ports[0].Port)
	}
	for _, key := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if variables[key] != address {
			t.Errorf("%s: got %s=%s, want %s", name, key, variables[key], address)
		}
	}
	for _, key := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO"} {
		file := variables[key]
		if !slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.ReadOnly && m.MountPath == filepath.Dir(file) }) {
			t.Errorf("%s: got %s=%s, which no volume has", name, key, file)
		}
	}
}

// TestKubernetesEgress follows the selectors and ports from one object to the other.
func TestKubernetesEgress(t *testing.T) {
	b := mustBuild(t, "egress")
	pods := make(map[string]corev1.PodTemplateSpec) // by namespace
	for _, deployment := range b.deployments {
		pods[deployment.Namespace] = deployment.Spec.Template
		if !selects(t, deployment.Spec.Selector, deployment.Spec.Template.Labels) {
			t.Errorf("%s does not select its own pods", deployment.Name)
		}
		if deployment.Namespace == "starpod" && *deployment.Spec.Replicas < 2 {
			t.Errorf("got %d replicas, want two or more", *deployment.Spec.Replicas)
		}
	}
	proxy, agent := pods["starpod"], pods["agents"]
	service := b.services[0]
	if len(b.services) != 1 || service.Namespace != "starpod" || !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(proxy.Labels)) {
		t.Errorf("got %v, want a Service of the proxy", b.services)
	}
	if target := portOf(proxy, service.Spec.Ports[0].TargetPort); target != 8080 {
		t.Errorf("the Service leads to port %d, want 8080", target)
	}
	if len(b.budgets) != 1 || !selects(t, b.budgets[0].Spec.Selector, proxy.Labels) {
		t.Errorf("got %v, want a budget of the proxy", b.budgets)
	}
	for _, p := range b.policies {
		both := slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		if !both || !selects(t, &p.Spec.PodSelector, nil) {
			t.Errorf("%s: want a policy of all pods, for both directions", p.Name)
		}
		switch p.Namespace {
		case "agents":
			if len(p.Spec.Ingress) != 0 || len(p.Spec.Egress) != 1 || len(p.Spec.Egress[0].To) != 1 || len(p.Spec.Egress[0].Ports) != 1 {
				t.Fatalf("got %+v, want one way out and none in", p.Spec)
			}
			to := p.Spec.Egress[0].To[0]
			if to.IPBlock != nil || to.NamespaceSelector == nil || to.PodSelector == nil || portOf(proxy, *p.Spec.Egress[0].Ports[0].Port) != 8080 ||
				!selects(t, to.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": "starpod"}) || selects(t, to.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": "other"}) ||
				!selects(t, to.PodSelector, proxy.Labels) || selects(t, to.PodSelector, agent.Labels) {
				t.Errorf("got %+v, want the proxy alone", p.Spec.Egress)
			}
		case "starpod":
			in := p.Spec.Ingress[0]
			if !selects(t, in.From[0].NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": "agents"}) || portOf(proxy, *in.Ports[0].Port) != 8080 {
				t.Errorf("got %+v, want the agents let in", in)
			}
		default:
			t.Errorf("a policy of the namespace %s, which no test looks at", p.Namespace)
		}
	}
	if len(b.policies) != 2 {
		t.Errorf("got %d policies, want one of each namespace", len(b.policies))
	}
	container := proxy.Spec.Containers[0]
	for _, probe := range []*corev1.Probe{container.StartupProbe, container.ReadinessProbe} {
		if portOf(proxy, probe.HTTPGet.Port) != 8081 || probe.HTTPGet.Path != "/healthz" {
			t.Errorf("got %+v, want the port and path of the Caddyfile", probe.HTTPGet)
		}
	}
	if _, found := b.secrets["agents/starpod-key"]; found {
		t.Error("the key is in the agents' namespace")
	}
	for name, secret := range b.secrets {
		if !strings.HasPrefix(name, "starpod/") {
			t.Errorf("%s is in the agents' namespace", name)
		}
		if strings.HasPrefix(secret.Name, "starpod-ca") && (len(secret.Data[corev1.TLSCertKey]) == 0 || len(secret.Data[corev1.TLSPrivateKeyKey]) == 0) {
			t.Errorf("%s: got %d files, want the authority", name, len(secret.Data))
		}
	}
	for name, m := range b.configMaps {
		for file, text := range m.Data {
			if strings.Contains(text, "key of the certificate") {
				t.Errorf("%s: %s is the authority's key", name, file)
			}
		}
	}
}

func selects(t *testing.T, selector *metav1.LabelSelector, set map[string]string) bool {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	return s.Matches(labels.Set(set))
}

// portOf is the number of a port of a pod, 0 for one that it has not.
func portOf(pod corev1.PodTemplateSpec, port intstr.IntOrString) int32 {
	for _, container := range pod.Spec.Containers {
		for _, p := range container.Ports {
			if p.Name == port.StrVal && port.Type == intstr.String || p.ContainerPort == port.IntVal && port.Type == intstr.Int {
				return p.ContainerPort
			}
		}
	}
	return 0
}
