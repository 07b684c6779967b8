package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
	exitDegraded
)

// exitError ends with a code of its own, after whatever the command printed.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usageError is a command line that cannot be meant.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// report prints an error as one line each of what happened and of what to do
// next, and gives the exit code. In error texts a line that begins with "next: "
// is a hint.
func report(w io.Writer, ran *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	text, code := err.Error(), exitFailed
	if isUsage(err) {
		text, code = friendlier(text)+fmt.Sprintf("\nnext: see `%s --help`", ran.CommandPath()), exitUsage
	}
	label := "error: "
	for line := range strings.SplitSeq(text, "\n") {
		if rest, ok := strings.CutPrefix(line, "next: "); ok {
			label, line = "hint: ", rest
		}
		fmt.Fprintln(w, "gridveil: "+label+line)
		label = strings.Repeat(" ", len(label))
	}
	return code
}

// isUsage tells a wrong command line from a command that failed.
func isUsage(err error) bool {
	var u *usageError
	return errors.As(err, &u) || slices.ContainsFunc(cobraUsage, func(s string) bool { return strings.HasPrefix(err.Error(), s) })
}

// cobraUsage is how cobra's own complaints begin; it gives them no type.
var cobraUsage = []string{"unknown command", "unknown flag", "unknown shorthand", "flag needs an argument", "accepts ", "invalid argument", "required flag", "bad flag syntax"}

// friendlier rewords cobra's complaint about flags that are not there.
func friendlier(text string) string {
	list, ok := strings.CutPrefix(text, "required flag(s) ")
	if !ok {
		return text
	}
	list, _ = strings.CutSuffix(list, " not set")
	var flags []string
	for name := range strings.SplitSeq(list, ", ") {
		flags = append(flags, "--"+strings.Trim(name, `"`))
	}
	return strings.Join(flags, " and ") + " must be given"
}

// oneArg wants exactly one argument and says what it is.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch len(args) {
		case 1:
			return nil
		case 0:
			return usage("want %s", what)
		}
		return usage("want %s and nothing else, got %d arguments", what, len(args))
	}
}

// noArgs wants none.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("unexpected argument %q", args[0])
	}
	return nil
}

// group is a command that only holds others; alone it prints its help.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("unknown command %q for %q", args[0], c.CommandPath())
		}
		return c.Help()
	}}
	c.AddCommand(subs...)
	return c
}
