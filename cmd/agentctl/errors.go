package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// The exit codes, which scripts may rely on.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
	// exitNo: agentctl did its work and the answer is no, or it found problems.
	exitNo = 3
)

// errNo ends a command whose output already says "no" or lists problems: nothing more is printed.
var errNo = errors.New("the answer is no")

// errUsage marks mistakes in the command line.
var errUsage = errors.New("usage")

// failure is an error with what to type next.
type failure struct {
	text string
	hint string
	err  error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// usagef reports a mistake in the command line; hint says what would be right.
func usagef(hint, format string, args ...any) error {
	return &failure{text: fmt.Sprintf(format, args...), hint: hint, err: errUsage}
}

// exactArgs accepts n positional arguments, whose names the error repeats.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		want := "no arguments"
		if len(names) > 0 {
			want = fmt.Sprintf("exactly %d (%v)", len(names), names)
		}
		return usagef("see: "+cmd.CommandPath()+" --help", "%s takes %s, not %d", cmd.CommandPath(), want, len(args))
	}
}

// optionalName accepts at most one positional argument.
func optionalName(cmd *cobra.Command, args []string) error {
	if len(args) <= 1 {
		return nil
	}
	return usagef("see: "+cmd.CommandPath()+" --help", "%s takes at most one NAME, not %d", cmd.CommandPath(), len(args))
}

// exitCode is what the shell sees for an error of a command.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNo):
		return exitNo
	case errors.Is(err, errUsage):
		return exitUsage
	}
	return exitError
}

// report prints an error and its hint on stderr and returns the exit code.
func (a *app) report(err error) int {
	var inLab labExit
	if errors.As(err, &inLab) {
		return inLab.ExitCode()
	}
	code := exitCode(err)
	if err == nil || errors.Is(err, errNo) {
		return code
	}
	fmt.Fprintf(a.stderr, "error: %s\n", clean(err.Error()))
	var f *failure
	if errors.As(err, &f) && f.hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", clean(f.hint))
	}
	return code
}

// hintOf is the hint of an error, if it has one.
func hintOf(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.hint
	}
	return ""
}
