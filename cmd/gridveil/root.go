package main

import "github.com/spf13/cobra"

// Groups of the help page, in the order in which people need them.
const (
	groupFirst   = "first"
	groupDaily   = "daily"
	groupOperate = "operate"
	groupTools   = "tools"
)

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "gridveil",
		Short: "A private mesh for smart metering and EV charging",
		Long: `gridveil reads meters, hides a home's load behind its battery, lets strangers charge at
your wallbox without anybody learning who they are, and settles it all in a ledger that
outsiders can verify.

See it first:   gridveil demo
Then for real:  gridveil init --role gateway --data DIR --pair LINK
                gridveil run --data DIR

Exit code 0: done; 1: it failed, and the error says why and what to do; 2: the command line
is wrong; 3: the node runs with a standing fault (gridveil status).`,
		Version: version, SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().String("data", ".", "data directory of the node")
	root.AddGroup(&cobra.Group{ID: groupFirst, Title: "The first day:"}, &cobra.Group{ID: groupDaily, Title: "Every day:"},
		&cobra.Group{ID: groupOperate, Title: "For operators:"}, &cobra.Group{ID: groupTools, Title: "Tools:"})
	add := func(id string, all ...*cobra.Command) {
		for _, c := range all {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add(groupFirst, demoCommand(), initCommand(), joinCommand(), runCommand(), statusCommand(), doctorCommand())
	add(groupDaily, walletCommand(), evseCommand(), guestCommand(), alarmCommand(), signalsCommand(), meshCommand())
	add(groupOperate, networkCommand(), inviteCommand(), membersCommand(), revokeCommand(), contractCommand(), meterCommand(), gridCommand(), priceCommand(), flexibilityCommand(), ledgerCommand(), caseCommand())
	add(groupTools, configCommand(), storeCommand(), verifyCommand(), verifierCommand(), batteryCommand(), benchCommand(), versionCommand())
	root.SetVersionTemplate("gridveil {{.Version}}\n")
	root.SetHelpCommand(helpCommand())
	root.SetHelpCommandGroupID(groupTools)
	root.SetCompletionCommandGroupID(groupTools)
	cobra.EnableCommandSorting = false
	return root
}

// helpCommand is cobra's, but a command that does not exist is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help about any command",
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return usage("unknown command %q for %q", rest[0], of.CommandPath())
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// data is the data directory that the command line names.
func data(c *cobra.Command) string {
	dir, err := c.Flags().GetString("data")
	if err != nil {
		return "." // the flag is persistent and a string
	}
	return dir
}
