// Checks the manifests of deploy/kubernetes as an API server would: rendered by kustomize, decoded strictly into the API's own types
// (an unknown or repeated field is an error), and what one object says of another must be there.
//
//	check DIRECTORY-OF-CONFIGURATIONS OVERLAY…    the agents' configurations are written there, to be validated
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// What nobody renders and somebody has to make: named in the README.
var given = map[string]bool{"telemetryflow-secrets": true}

type rendered struct {
	overlay  string
	objects  map[string]runtime.Object
	problems []string
}

func (r *rendered) wrong(format string, args ...any) {
	r.problems = append(r.problems, r.overlay+": "+fmt.Sprintf(format, args...))
}

func (r *rendered) has(kind, name string) bool {
	_, there := r.objects[kind+"/"+name]
	return there
}

func render(overlay string) *rendered {
	r := &rendered{overlay: filepath.Base(overlay), objects: map[string]runtime.Object{}}
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		r.wrong("%v", err)
		return r
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, rbacv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	for _, resource := range resources.Resources() {
		name := resource.GetKind() + "/" + resource.GetName()
		text, err := resource.AsYAML()
		if err != nil {
			r.wrong("%s: %v", name, err)
			continue
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			r.wrong("%s: %v", name, err)
			continue
		}
		r.objects[name] = object
	}
	return r
}

// What must hold between the objects.
func (r *rendered) check() {
	var pods []labels.Set
	for name, object := range r.objects {
		var selector *metav1.LabelSelector
		var template corev1.PodTemplateSpec
		switch workload := object.(type) {
		case *appsv1.DaemonSet:
			selector, template = workload.Spec.Selector, workload.Spec.Template
		case *appsv1.Deployment:
			selector, template = workload.Spec.Selector, workload.Spec.Template
		default:
			continue
		}
		pods = append(pods, template.Labels)
		if s, err := metav1.LabelSelectorAsSelector(selector); err != nil || !s.Matches(labels.Set(template.Labels)) {
			r.wrong("%s: its selector does not match its own pods", name)
		}
		r.checkPod(name, template.Spec)
	}
	for name, object := range r.objects {
		switch object := object.(type) {
		case *networkingv1.NetworkPolicy:
			selector, err := metav1.LabelSelectorAsSelector(&object.Spec.PodSelector)
			matches := false
			for _, pod := range pods {
				matches = matches || err == nil && selector.Matches(pod)
			}
			if !matches {
				r.wrong("%s: it is for no pod", name)
			}
		case *rbacv1.ClusterRoleBinding:
			if !r.has("ClusterRole", object.RoleRef.Name) {
				r.wrong("%s: there is no role %s", name, object.RoleRef.Name)
			}
			for _, subject := range object.Subjects {
				if !r.has(subject.Kind, subject.Name) || subject.Namespace == "" {
					r.wrong("%s: there is no %s %s", name, subject.Kind, subject.Name)
				}
			}
		}
	}
}

func (r *rendered) checkPod(name string, pod corev1.PodSpec) {
	if pod.ServiceAccountName != "" && !r.has("ServiceAccount", pod.ServiceAccountName) {
		r.wrong("%s: there is no service account %s", name, pod.ServiceAccountName)
	}
	volumes := map[string]bool{}
	for _, volume := range pod.Volumes {
		volumes[volume.Name] = true
		if volume.ConfigMap != nil && !r.has("ConfigMap", volume.ConfigMap.Name) {
			r.wrong("%s: there is no config map %s", name, volume.ConfigMap.Name)
		}
	}
	agents := 0
	for _, container := range pod.Containers {
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				r.wrong("%s/%s: there is no volume %s", name, container.Name, mount.Name)
			}
		}
		for _, env := range container.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil && !given[env.ValueFrom.SecretKeyRef.Name] {
				r.wrong("%s/%s: nobody makes the secret %s", name, container.Name, env.ValueFrom.SecretKeyRef.Name)
			}
		}
		if container.Name != "otel-agent" {
			continue
		}
		agents++
		ports := map[string]bool{}
		for _, port := range container.Ports {
			ports[port.Name] = true
			if pod.HostNetwork && port.HostPort != port.ContainerPort {
				r.wrong("%s: on the host network port %s must be the host's", name, port.Name)
			}
		}
		for kind, probe := range map[string]*corev1.Probe{"liveness": container.LivenessProbe, "readiness": container.ReadinessProbe} {
			if probe == nil || probe.HTTPGet == nil {
				r.wrong("%s: no %s probe", name, kind)
			} else if port := probe.HTTPGet.Port; port.Type == intstr.String && !ports[port.StrVal] {
				r.wrong("%s: its %s probe asks a port %s that it has not", name, kind, port.StrVal)
			}
		}
		security := container.SecurityContext
		if security == nil || security.Capabilities == nil || len(security.Capabilities.Drop) != 1 || security.Capabilities.Drop[0] != "ALL" ||
			security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation {
			r.wrong("%s: the agent keeps capabilities", name)
		}
		if container.Resources.Limits.Memory().IsZero() || container.Resources.Requests.Memory().IsZero() {
			r.wrong("%s: the agent's memory has no limit or no request", name)
		}
	}
	if agents != 1 {
		r.wrong("%s: %d containers otel-agent", name, agents)
	}
}

func main() {
	into, overlays := os.Args[1], os.Args[2:]
	var problems []string
	for _, overlay := range overlays {
		r := render(overlay)
		r.check()
		problems = append(problems, r.problems...)
		var names []string
		for name, object := range r.objects {
			names = append(names, name)
			if config, is := object.(*corev1.ConfigMap); is {
				file := filepath.Join(into, r.overlay+".yaml")
				if err := os.WriteFile(file, []byte(config.Data["config.yaml"]), 0o644); err != nil {
					problems = append(problems, err.Error())
				}
			}
		}
		fmt.Printf("%s: %d objects\n", r.overlay, len(names))
	}
	if len(problems) > 0 {
		fmt.Println(strings.Join(problems, "\n"))
		os.Exit(1)
	}
}
