package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node/model"
	"gridveil/node/utility"
)

func contractCommand() *cobra.Command {
	return group("contract", "Contracts and bills of a utility", contractOpen(), contractDriver(), contractList(), contractBill(), contractEdit())
}

func contractOpen() *cobra.Command {
	q := struct {
		Key     string `json:"key"`
		Plan    string `json:"plan"`
		Masked  bool   `json:"masked"`
		ReadS   int64  `json:"read_period_s"`
		ReportS int64  `json:"report_period_s"`
	}{}
	var read, report time.Duration
	c := &cobra.Command{
		Use: "open KEY", Short: "Open a household's contract", Args: oneArg("the gateway's member key, as `gridveil status` shows it there"),
		Example: "  gridveil contract open 91ac... --plan day-night --data /srv/uta",
		RunE: func(c *cobra.Command, args []string) error {
			q.Key, q.ReadS, q.ReportS = args[0], int64(read/time.Second), int64(report/time.Second)
			var out utility.Contract
			if err := ask(c, "open-contract", q, &out, "utility"); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%x\n", out.UsagePoint[:])
			fmt.Fprintln(c.ErrOrStderr(), "opened; the head-end orders readings from the gateway as soon as both are connected")
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&q.Plan, "plan", string(utility.PlanFlat), "flat or day-night")
	f.BoolVar(&q.Masked, "masked", false, "the household masks its load with a battery; checks of its readings allow for that")
	f.DurationVar(&read, "read", 15*time.Minute, "how often the meter is read")
	f.DurationVar(&report, "report", time.Hour, "how often readings are reported")
	return c
}

func contractDriver() *cobra.Command {
	q := struct {
		Key   string `json:"key"`
		Limit uint16 `json:"limit"`
		Close bool   `json:"close"`
	}{}
	c := &cobra.Command{
		Use: "driver KEY", Short: "Open or close a driver's contract", Args: oneArg("the wallet's member key, as `gridveil status` shows it there"),
		Example: "  gridveil contract driver b5d8... --limit 40 --data /srv/uta\n  gridveil contract driver b5d8... --close --data /srv/uta",
		RunE: func(c *cobra.Command, args []string) error {
			q.Key = args[0]
			if err := ask(c, "driver-contract", q, nil, "utility"); err != nil {
				return err
			}
			what := "opened: the wallet fetches its pseudonyms by itself"
			if q.Close {
				what = "closed: no pseudonyms are issued any more"
			}
			fmt.Fprintln(c.OutOrStdout(), what)
			return nil
		},
	}
	c.Flags().Uint16Var(&q.Limit, "limit", 0, "most that one session may cost, in EUR: 10, 20, 40 or 80; 0 takes the usual limit")
	c.Flags().BoolVar(&q.Close, "close", false, "end the contract")
	return c
}

func contractList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List the household contracts", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []utility.Contract
			if err := ask(c, "contracts", nil, &all, "utility"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(t, "usage point\tplan\tread every\ton the head-end's list")
			for _, x := range all {
				fmt.Fprintf(t, "%x\t%s\t%v\t%v\n", x.UsagePoint[:], x.Plan, time.Duration(x.ReadS)*time.Second, x.Placed)
			}
			return t.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func contractBill() *cobra.Command {
	var from, to string
	var estimate bool
	c := &cobra.Command{
		Use: "bill USAGEPOINT", Short: "Compute a bill from signed registers", Args: oneArg("a usage point, or at least its first four digits"),
		Long: `Computes a bill from the registers that the meter's gateway signed. A gap stops it: late readings
may still come. With --estimate the slots of a gap between two registers are filled in: linearly up
to two hours, else as the same weekday of the last four weeks, else linearly. The energy is the
difference of the two registers in any case, and the bill says how many slots were estimated. A gap
with no register on one side, and a value that a check rejected, still stop it; ` + "`gridveil contract edit`" + ` replaces such a value, and the
bill then lists it with who answers for it.`,
		Example: "  gridveil contract bill 3f9a --from 2026-06-01T00:00:00Z --to 2026-07-01T00:00:00Z",
		RunE: func(c *cobra.Command, args []string) error {
			a, err := instant("--from", from)
			if err != nil {
				return err
			}
			b, err := instant("--to", to)
			if err != nil {
				return err
			}
			var out any
			if err := ask(c, "bill", map[string]any{"usage_point": args[0], "From": a.UnixMilli(), "To": b.UnixMilli(), "Estimate": estimate}, &out, "utility"); err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), out)
		},
	}
	c.Flags().StringVar(&from, "from", "", "start, RFC 3339")
	c.Flags().StringVar(&to, "to", "", "end, RFC 3339")
	c.Flags().BoolVar(&estimate, "estimate", false, "fill gaps between two registers by estimates")
	_ = c.MarkFlagRequired("from") // the flags exist
	_ = c.MarkFlagRequired("to")
	return c
}

func contractEdit() *cobra.Command {
	var slot, by, why string
	var wh int64
	var export bool
	c := &cobra.Command{
		Use: "edit USAGEPOINT", Short: "Replace a register that a check rejected by what the meter shows", Args: oneArg("a usage point, or at least its first four digits"),
		Long: `Signs an edit of one reading and keeps it: who answers for it, why, the register before and after. The
reading itself stays as the meter's gateway signed it. Bills take the edit and list it, until the
head-end pushes another value. Only a value that a check rejected can be edited, and only to one
that the sound registers around it allow.`,
		Example: "  gridveil contract edit 3f9a --slot 2026-06-03T10:15:00Z --wh 1234567 --by 'N. Ohm' --why 'display read on site'",
		RunE: func(c *cobra.Command, args []string) error {
			at, err := instant("--slot", slot)
			if err != nil {
				return err
			}
			channel := model.ImportTotal
			if export {
				channel = model.ExportTotal
			}
			var out any
			if err := ask(c, "edit-reading", utility.EditAsked{UsagePoint: args[0], Channel: channel, Slot: at.UnixMilli(), Register: wh * 1000, By: by, Why: why}, &out, "utility"); err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), out)
		},
	}
	c.Flags().StringVar(&slot, "slot", "", "start of the reading's period, RFC 3339")
	c.Flags().Int64Var(&wh, "wh", 0, "register at the end of the period as the meter showed it, Wh")
	c.Flags().BoolVar(&export, "export", false, "the register of what was fed in, instead of what was drawn")
	c.Flags().StringVar(&by, "by", "", "who answers for the value")
	c.Flags().StringVar(&why, "why", "", "why it is edited, in plain letters")
	for _, f := range []string{"slot", "wh", "by", "why"} {
		_ = c.MarkFlagRequired(f) // the flags exist
	}
	return c
}

func meterCommand() *cobra.Command {
	return group("meter", "Meters of a utility's customers", &cobra.Command{
		Use: "read USAGEPOINT", Short: "Read a meter now, through head-end, substation and gateway", Args: oneArg("a usage point, or at least its first four digits"),
		Example: "  gridveil meter read 3f9a --data /srv/uta",
		RunE: func(c *cobra.Command, args []string) error {
			var rows []utility.Reading
			if err := ask(c, "read-meter", args[0], &rows, "utility"); err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), rows)
		},
	}, meterEvidence())
}
