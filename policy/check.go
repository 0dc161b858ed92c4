package policy

// CheckMethod returns why a value is no pattern for methods, nil if it is one. It and its siblings are for whoever reads
// policies that people wrote, and says where the mistake is.
func CheckMethod(value string) error { return second(parseMethod(value)) }

// CheckHost is CheckMethod for hosts.
func CheckHost(value string) error { return second(parseHost(value)) }

// CheckPath is CheckMethod for paths.
func CheckPath(value string) error { return second(parsePath(value)) }

// CheckText is CheckMethod for request principals.
func CheckText(value string) error { return second(parseText(value)) }

// CheckCondition returns what is wrong with a condition; the error begins with the field's path below it, ".values[0]".
func CheckCondition(c Condition) error { return second(compileCondition(c)) }

func second[T any](_ T, err error) error { return err }
