package policy

import (
	"errors"
	"fmt"
	"slices"
)

// operation is a compiled Operation.
type operation struct {
	ports, notPorts     []uint16
	hosts, notHosts     []pattern
	methods, notMethods []pattern
	paths, notPaths     []pattern
	asksRequests        bool
}

func compileOperation(o Operation) (operation, error) {
	c := operation{ports: slices.Clone(o.Ports), notPorts: slices.Clone(o.NotPorts), asksRequests: o.asksRequests()}
	var errs [8]error
	errs[0], errs[1] = checkPorts(".ports", o.Ports), checkPorts(".notPorts", o.NotPorts)
	c.hosts, errs[2] = compileList(".hosts", o.Hosts, parseHost)
	c.notHosts, errs[3] = compileList(".notHosts", o.NotHosts, parseHost)
	c.methods, errs[4] = compileList(".methods", o.Methods, parseMethod)
	c.notMethods, errs[5] = compileList(".notMethods", o.NotMethods, parseMethod)
	c.paths, errs[6] = compileList(".paths", o.Paths, parsePath)
	c.notPaths, errs[7] = compileList(".notPaths", o.NotPaths, parsePath)
	for _, err := range errs {
		if err != nil {
			return c, err
		}
	}
	if !c.asksRequests && len(c.ports)+len(c.notPorts) == 0 {
		return c, errors.New(": no field is set, which would match everything: set one, or leave out to")
	}
	return c, nil
}

func checkPorts(field string, ports []uint16) error {
	if err := checkList(field, ports); err != nil {
		return err
	}
	if i := slices.Index(ports, 0); i >= 0 {
		return fmt.Errorf("%s[%d]: port 0 does not exist", field, i)
	}
	return nil
}

// mismatch returns the name of the first field that does not match, or "" if all do.
func (o *operation) mismatch(who *subject, action Action) string {
	if field := o.mismatchPort(who.Dst.Port(), action); field != "" || !o.asksRequests {
		return field
	}
	if who.request == nil {
		return unread(action, "the request")
	}
	switch {
	case mismatchText(o.hosts, o.notHosts, who.host, action):
		return "hosts"
	case mismatchText(o.methods, o.notMethods, who.method, action):
		return "methods"
	case mismatchText(o.paths, o.notPaths, who.request.Path, action):
		return "paths"
	}
	return ""
}

// mismatchPort returns the name of the field that does not match port, or "". Port 0 means that it is not known.
func (o *operation) mismatchPort(port uint16, action Action) string {
	switch {
	case len(o.ports) > 0 && !slices.Contains(o.ports, port):
		return "ports"
	case len(o.notPorts) > 0 && port == 0 && action == Allow:
		return "notPorts"
	case slices.Contains(o.notPorts, port):
		return "notPorts"
	}
	return ""
}

// mismatchText tells whether a text keeps one of two lists from matching. An empty text is one that is not known.
func mismatchText(positive, negative []pattern, text string, action Action) bool {
	switch {
	case len(positive) > 0 && (text == "" || !anyText(positive, text)):
		return true
	case len(negative) > 0 && text == "":
		return action == Allow
	}
	return anyText(negative, text)
}
