package policy

import "strings"

// matchesHeader is about a header that may be there several times; see "Requests" in the package comment.
func (c *condition) matchesHeader(lines []string, action Action) bool {
	if action == Allow {
		return c.allowsHeader(lines)
	}
	return (len(c.values) == 0 || someHeader(c.values, lines)) &&
		(len(c.excluded) == 0 || len(lines) == 0 || someOther(c.excluded, lines))
}

// allowsHeader tells whether every line has one of the values, and nothing that is excluded.
func (c *condition) allowsHeader(lines []string) bool {
	if len(c.values) > 0 {
		if len(lines) == 0 || someOther(c.values, lines) {
			return false
		}
	}
	return !someHeader(c.excluded, lines)
}

// someOther tells whether a line matches no pattern.
func someOther(patterns []pattern, lines []string) bool {
	for _, line := range lines {
		if !anyText(patterns, line) {
			return true
		}
	}
	return false
}

// someHeader tells whether something that a backend may read of the lines matches a pattern: a line, an element of
// its list, or what the lines give as one list.
func someHeader(patterns []pattern, lines []string) bool {
	if len(patterns) == 0 {
		return false
	}
	for _, line := range lines {
		if anyText(patterns, line) || someElement(patterns, line) {
			return true
		}
	}
	return len(lines) > 1 && (anyText(patterns, strings.Join(lines, ",")) || anyText(patterns, strings.Join(lines, ", ")))
}

func someElement(patterns []pattern, line string) bool {
	for rest, more := line, strings.Contains(line, ","); more; {
		var element string
		element, rest, more = strings.Cut(rest, ",")
		if anyText(patterns, strings.Trim(element, " \t")) {
			return true
		}
	}
	return false
}
