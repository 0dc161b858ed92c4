package manifest

import "fmt"

// merge collects the last good objects of files. Of two objects with one key the one of the earlier file stays:
// earlier is by root, then by path, so that a restart comes to the same answer.
func (l *Loader) merge(paths []string, res *Result) []*Object {
	var out []*Object
	first := make(map[Key]*Object)
	done := make(map[string]bool, len(paths))
	for _, path := range paths {
		if done[path] {
			continue // two roots hold the same file
		}
		done[path] = true
		for _, o := range l.files[path].good.objects {
			if other, dup := first[o.Key]; dup {
				res.Rejected = append(res.Rejected, fmt.Sprintf("%s: %s: is also in %s, which stays in force", o.Origin, o.Key, other.Origin))
				continue
			}
			first[o.Key] = o
			out = append(out, o)
		}
	}
	return out
}

// overlay adds to objects what status objects say: a pod's addresses, phase and conditions, its uid and its node; a
// service's virtual addresses. Nothing else is taken from them, so whoever writes a status root can neither enrol a
// pod nor change its service account or a policy.
func overlay(objects, status []*Object, res *Result) []*Object {
	byKey := make(map[Key]*Object, len(status))
	for _, s := range status {
		byKey[s.Key] = s
	}
	out := make([]*Object, 0, len(objects))
	for _, o := range objects {
		s := byKey[o.Key]
		if s != nil {
			delete(byKey, o.Key)
			o = overlayOne(o, s)
		}
		out = append(out, o)
	}
	for _, s := range status {
		if byKey[s.Key] != nil {
			res.Ignored = append(res.Ignored, Ignored{s.Origin, s.Key.String(), "a status of an object that no manifest has"})
		}
	}
	return out
}

func overlayOne(o, s *Object) *Object {
	merged := *o
	switch spec := o.Spec.(type) {
	case *Pod:
		pod, status := *spec, s.Spec.(*Pod)
		if s.Meta.UID != "" {
			merged.Meta.UID = s.Meta.UID
		}
		if status.Spec.NodeName != "" {
			pod.Spec.NodeName = status.Spec.NodeName
		}
		if len(status.Status.IPs()) > 0 {
			pod.Status.PodIP, pod.Status.PodIPs = status.Status.PodIP, status.Status.PodIPs
		}
		if status.Status.Phase != "" {
			pod.Status.Phase = status.Status.Phase
		}
		if status.Status.Conditions != nil {
			pod.Status.Conditions = status.Status.Conditions
		}
		merged.Spec = &pod
	case *Service:
		svc, status := *spec, s.Spec.(*Service)
		if status.ClusterIP != "" || len(status.ClusterIPs) > 0 {
			svc.ClusterIP, svc.ClusterIPs = status.ClusterIP, status.ClusterIPs
		}
		merged.Spec = &svc
	}
	return &merged
}
