package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/identity"
)

const aFolder = "the network folder that `gridveil network new` made"

func networkShow() *cobra.Command {
	return &cobra.Command{
		Use: "show FOLDER", Short: "Show a network's rules and what its next version changes", Args: oneArg(aFolder),
		RunE: func(c *cobra.Command, args []string) error {
			old, next, err := identity.ReadNext(args[0])
			if err != nil {
				return err
			}
			out, b := c.OutOrStdout(), old
			if b == nil {
				b = next
			}
			fmt.Fprintf(out, "network %s, version %d\nhomes enrolled: %d\n", b.Network, b.Version, b.Policy.HomesEnrolled)
			for _, o := range b.Operators {
				var cas []string
				for _, der := range o.CA {
					cas = append(cas, identity.Fingerprint(der))
				}
				fmt.Fprintf(out, "operator %s: CA %s, roles %v\n", o.Name, strings.Join(cas, ", "), o.Roles)
			}
			if old != nil && next != nil {
				fmt.Fprintf(out, "\nversion %d, not yet published:\n", next.Version)
				printChanges(out, identity.Changes(old, next))
			}
			return nil
		},
	}
}

func printChanges(w io.Writer, changes []string) {
	for _, line := range changes {
		fmt.Fprintf(w, "  %s\n", line)
	}
}

func networkEdit() *cobra.Command {
	e := identity.Edit{}
	var operators string
	c := &cobra.Command{
		Use: "edit FOLDER", Short: "Write the next version of a network's rules, to be signed", Args: oneArg(aFolder),
		Long: `Writes next.toml in FOLDER, from the rules in force or from an earlier draft. Nothing changes for
anybody until enough root keys signed it and a node published it. Removing a CA or an operator
cuts off whom it certified; a new CA may stand beside the old one until all have renewed.`,
		Example: "  gridveil network edit ./net --homes 24\n  gridveil network edit ./net --add-operators more.toml\n  gridveil network edit ./net --add-ca utility-a",
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().NFlag() == 0 {
				return usage("say what to change: --homes, --add-operators, --remove-operator, --add-ca or --remove-ca")
			}
			if c.Flags().Changed("homes") && e.Homes < 0 {
				return usage("--homes: want 0 or more")
			}
			if operators != "" {
				b, err := os.ReadFile(operators)
				if err != nil {
					return fmt.Errorf("plan of operators: %w", err)
				}
				if e.AddOperators, err = identity.ParsePlan(operators, b); err != nil {
					return err
				}
			}
			old, next, err := identity.EditNetwork(args[0], e, time.Now(), rand.Reader)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "version %d:\n", next.Version)
			printChanges(c.OutOrStdout(), identity.Changes(old, next))
			fmt.Fprintf(c.ErrOrStderr(), "written to next.toml; %d root keys must sign it: gridveil network sign %s --root KEYFILE\n", next.RootThreshold, args[0])
			return nil
		},
	}
	f := c.Flags()
	f.IntVar(&e.Homes, "homes", -1, "homes enrolled, of all operators; `gridveil members` says each operator's part")
	f.StringVar(&operators, "add-operators", "", "plan file with the [[operators]] and [[zones]] that come in; their CA keys are drawn into the folder")
	f.StringSliceVar(&e.RemoveOperators, "remove-operator", nil, "operator that goes, with everybody it certified")
	f.StringSliceVar(&e.AddCA, "add-ca", nil, "operator that gets one more CA; its key is drawn into the folder")
	f.StringSliceVar(&e.RemoveCA, "remove-ca", nil, "fingerprint of a CA that goes, with everybody it certified")
	f.Lookup("homes").DefValue = "as it is"
	return c
}

func networkSign() *cobra.Command {
	var root string
	c := &cobra.Command{
		Use: "sign FOLDER", Short: "Sign the next version of a network's rules with a root key", Args: oneArg("a folder with next.toml"),
		Long: `Shows what changes, where the folder holds the rules in force, and adds the key's signature to
next.toml.sig. A root key that is kept elsewhere needs next.toml and next.toml.sig only.`,
		Example: "  gridveil network sign ./net --root /media/key/root-1.key",
		RunE: func(c *cobra.Command, args []string) error {
			have, need, err := identity.SignNext(args[0], root)
			if err != nil {
				return err
			}
			old, next, err := identity.ReadNext(args[0])
			if err != nil {
				return err
			}
			if old != nil {
				printChanges(c.OutOrStdout(), identity.Changes(old, next))
			}
			fmt.Fprintf(c.OutOrStdout(), "version %d is signed by %d root keys, %d must\n", next.Version, have, need)
			return nil
		},
	}
	c.Flags().StringVar(&root, "root", "", "file of a root key")
	_ = c.MarkFlagRequired("root") // the flag exists
	return c
}

func networkPublish() *cobra.Command {
	return &cobra.Command{
		Use: "publish FOLDER", Short: "Put the signed next version of a network's rules in force", Args: oneArg(aFolder),
		Long: `Hands next.toml to the running node, which must be an operator's; it spreads it to everybody, and
every member checks the root signatures itself. FOLDER then holds it as network.toml.`,
		Example: "  gridveil network publish ./net --data /srv/uta",
		RunE: func(c *cobra.Command, args []string) error {
			raw, sig, err := identity.NextSigned(args[0])
			if err != nil {
				return err
			}
			if err := node.Publish(c.Context(), data(c), raw, sig); err != nil {
				return explain(c, err)
			}
			if err := identity.TakeNext(args[0]); err != nil {
				return fmt.Errorf("published, but the folder still holds it as the next version: %w", err)
			}
			fmt.Fprintln(c.OutOrStdout(), "in force here, and on its way to everybody")
			return nil
		},
	}
}
