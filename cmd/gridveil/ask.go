package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node/config"
	"gridveil/node/control"
	"gridveil/node/identity"
)

// ask calls the node that runs in the data directory. roles are those that
// answer the command, the first of which an error names; none means all do.
func ask(c *cobra.Command, name string, in, out any, roles ...string) error {
	return explain(c, control.Call(c.Context(), data(c), name, in, out), roles...)
}

// explain says why no node answered a command, nearest cause first: nothing
// prepared, not the role for it, not a member, or not running.
func explain(c *cobra.Command, err error, roles ...string) error {
	var refused *control.Error
	unknown := errors.As(err, &refused) && refused.Status == http.StatusNotFound
	if !errors.Is(err, control.ErrNotRunning) && !unknown {
		return err
	}
	dir := data(c)
	cfg, bad := config.Load(dir)
	if bad != nil {
		return bad
	}
	if len(roles) > 0 && !slices.Contains(roles, cfg.Role) {
		return fmt.Errorf("%s is the directory of %s; `%s` asks %s\nnext: name another directory with --data", dir, article(cfg.Role), c.CommandPath(), article(roles...))
	}
	if unknown {
		return err
	}
	if _, bad := identity.Load(dir, time.Now()); errors.Is(bad, identity.ErrNotEnrolled) {
		return bad
	}
	return err
}

// article puts "a" or "an" before roles: "a gateway or a wallet".
func article(roles ...string) string {
	var all []string
	for _, r := range roles {
		a := "a "
		if r == "ssn" || strings.ContainsAny(r[:1], "aeio") {
			a = "an "
		}
		all = append(all, a+r)
	}
	return strings.Join(all, " or ")
}
