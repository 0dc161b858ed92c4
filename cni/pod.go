package cni

import (
	"errors"
	"fmt"
	"strings"
)

// maxName bounds a pod's UID, namespace and name: Kubernetes' own bound of the longest of them.
const maxName = 253

// pod is the pod that a call is about, as the runtime names it.
type pod struct{ uid, namespace, name string }

func (p pod) String() string { return p.namespace + "/" + p.name }

// errNoUID is about a runtime, not about a pod.
var errNoUID = errors.New("the container runtime does not say which pod this is (no K8S_POD_UID in CNI_ARGS), so the " +
	"Warren agent cannot be asked about it. containerd says it since 1.4.7 and 1.5.3, CRI-O since 1.20: upgrade the " +
	"runtime of this node, or keep Warren off it")

// podOf reads CNI_ARGS, "KEY=value;KEY=value". Keys of others are left alone. What is returned with an error may be
// named in a message, as far as it goes.
func podOf(args string) (p pod, err error) {
	fields := map[string]*string{"K8S_POD_UID": &p.uid, "K8S_POD_NAMESPACE": &p.namespace, "K8S_POD_NAME": &p.name}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(args, ";") {
		key, value, _ := strings.Cut(part, "=")
		field := fields[key]
		if field == nil {
			continue
		}
		if seen[key] {
			return pod{}, fmt.Errorf("CNI_ARGS has %s twice", key)
		}
		seen[key] = true
		if err := checkName(key, value); err != nil {
			return pod{}, err
		}
		*field = value
	}
	switch {
	case p.uid == "":
		return p, errNoUID
	case p.namespace == "" || p.name == "":
		return p, errors.New("CNI_ARGS has no K8S_POD_NAMESPACE or no K8S_POD_NAME: " +
			"the container runtime did not say which pod this is")
	}
	return p, nil
}

// checkName admits what a Kubernetes name or UID can be made of.
func checkName(key, value string) error {
	if len(value) > maxName {
		return fmt.Errorf("CNI_ARGS: %s has %d bytes, more than %d: %s…", key, len(value), maxName, clean(value[:32]))
	}
	strange := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._", r)
	}
	if strings.ContainsFunc(value, strange) {
		return fmt.Errorf("CNI_ARGS: %s is %s, which is no name: only letters, digits and -._ are", key, clean(value))
	}
	return nil
}

// clean makes a stranger's text fit for a message: quoted, printable ASCII, and not long.
func clean(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most]
	}
	return fmt.Sprintf("%+q", s)
}
