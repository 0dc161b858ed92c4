package policy

import (
	"fmt"
	"strings"
)

// String is the rule on one line, for people: "from (principals a, b; not namespaces c) or (…) to (ports 80)".
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString("from ")
	if len(r.From) == 0 {
		b.WriteString("anywhere")
	}
	for i, s := range r.From {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(s.String())
	}
	b.WriteString(" to ")
	if len(r.To) == 0 {
		b.WriteString("any port")
	}
	for i, o := range r.To {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(o.String())
	}
	for i, c := range r.When {
		b.WriteString([]string{" when ", " and "}[min(i, 1)] + c.String())
	}
	return b.String()
}

// String is the source in parentheses, "(principals a, b; not namespaces c)".
func (s Source) String() string {
	var fields []string
	fields = appendField(fields, "principals", s.Principals)
	fields = appendField(fields, "not principals", s.NotPrincipals)
	fields = appendField(fields, "namespaces", s.Namespaces)
	fields = appendField(fields, "not namespaces", s.NotNamespaces)
	fields = appendField(fields, "service accounts", s.ServiceAccounts)
	fields = appendField(fields, "not service accounts", s.NotServiceAccounts)
	fields = appendField(fields, "ip blocks", s.IPBlocks)
	fields = appendField(fields, "not ip blocks", s.NotIPBlocks)
	fields = appendField(fields, "request principals", s.RequestPrincipals)
	fields = appendField(fields, "not request principals", s.NotRequestPrincipals)
	return "(" + strings.Join(fields, "; ") + ")"
}

// String is the operation in parentheses, "(ports 80, 443; not ports 8080)".
func (o Operation) String() string {
	fields := appendField(nil, "ports", o.Ports)
	fields = appendField(fields, "not ports", o.NotPorts)
	fields = appendField(fields, "hosts", o.Hosts)
	fields = appendField(fields, "not hosts", o.NotHosts)
	fields = appendField(fields, "methods", o.Methods)
	fields = appendField(fields, "not methods", o.NotMethods)
	fields = appendField(fields, "paths", o.Paths)
	fields = appendField(fields, "not paths", o.NotPaths)
	return "(" + strings.Join(fields, "; ") + ")"
}

// String is the condition in parentheses, "(request.headers[x-role] admin; not guest)".
func (c Condition) String() string {
	fields := appendField(nil, c.Key, c.Values)
	name := "not"
	if len(fields) == 0 {
		name = c.Key + " not"
	}
	fields = appendField(fields, name, c.NotValues)
	return "(" + strings.Join(fields, "; ") + ")"
}

func appendField[T any](fields []string, name string, values []T) []string {
	if len(values) == 0 {
		return fields
	}
	var b strings.Builder
	b.WriteString(name)
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %v", v)
	}
	return append(fields, b.String())
}
