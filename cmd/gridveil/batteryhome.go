package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gridveil/node"
	"gridveil/node/gateway"
)

// batteryHome are the commands of the battery in this home.
func batteryHome() []*cobra.Command {
	return []*cobra.Command{batteryStatus(), batteryLog(), batteryOrder("charge", "Charge the battery, before the mask", -1), batteryOrder("discharge", "Discharge the battery, before the mask", 1),
		batteryStop(), batteryRelease(), batteryDial(), batteryDevice()}
}

func batteryStatus() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status", Short: "How the home's battery is, what it hides, and who commands it", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var s gateway.BatteryStatus
			if err := ask(c, "battery-status", nil, &s, "gateway"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return printBattery(c.OutOrStdout(), s)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printBattery(w io.Writer, s gateway.BatteryStatus) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	model := ""
	if s.Simulated {
		model = ", SIMULATED"
	}
	fmt.Fprintf(t, "battery\t%s%s\n", s.Driver, model)
	if s.Known {
		fmt.Fprintf(t, "stored\t%.2f kWh\n", s.Stored/1000)
		fmt.Fprintf(t, "now\t%s\n", doing(s.Power))
	} else {
		fmt.Fprintln(t, "stored\tnot known: the inverter has not answered yet")
	}
	fmt.Fprintf(t, "mask\t%s\n", s.Policy)
	if s.Level > 0 {
		fmt.Fprintf(t, "meter level\t%.0f W until the next full five minutes\n", s.Level)
	}
	r := s.Report
	if r.BoundBits > 0 {
		fmt.Fprintf(t, "proven bound\t%.1f bits a day, by the model\n", r.BoundBits)
	}
	fmt.Fprintf(t, "exposed\t%.0f min, %.2f kWh since two at night UTC\n", r.ExposedMins, r.ExposedWh/1000)
	if r.CommandedMins > 0 || r.StaleMins > 0 {
		fmt.Fprintf(t, "of them\t%.0f min under a command, %.0f min without a reading\n", r.CommandedMins, r.StaleMins)
	}
	fmt.Fprintf(t, "dial\t%d of 4, 0 is private\n", s.Dial)
	if in := s.Insight; in != nil {
		fmt.Fprintf(t, "rated\t%.1f bits a day, by a richer model; the floor line is %.1f\n", in.Leak.Masked, in.Leak.Floor)
		for i, x := range in.Stops {
			fmt.Fprintf(t, "stop %d\tat most %.1f bits, EUR %.2f, %.2f kWh lost, %.2f cycles a day\n", i, x.Bits, x.Cost, x.Loss/1000, x.Cycles)
		}
	}
	if s.Ordered != nil && s.Until != nil {
		fmt.Fprintf(t, "your command\t%s until %s\n", doing(*s.Ordered), s.Until.Local().Format("15:04"))
	}
	if x := s.Car; x != nil {
		fmt.Fprintf(t, "car\tmoved %d times, %.0f min, in the last 24 hours\n", x.Times, x.Mins)
		if x.Alone != "" {
			fmt.Fprintf(t, "\tleft alone now: %s\n", x.Alone)
		}
	}
	if r.Reason != "" {
		fmt.Fprintf(t, "note\t%s\n", r.Reason)
	}
	for _, x := range s.Trouble {
		fmt.Fprintf(t, "trouble\t%s. %s\n\tnext: %s\n", x.Title, x.Text, x.Next)
	}
	return t.Flush()
}

// doing says in words what a battery power is.
func doing(watts float64) string {
	switch {
	case watts > .5:
		return fmt.Sprintf("gives %.0f W", watts)
	case watts < -.5:
		return fmt.Sprintf("takes %.0f W", -watts)
	}
	return "rests"
}

func batteryLog() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "log", Short: "Who commanded the battery, who won, and what it cost", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var s gateway.BatteryStatus
			if err := ask(c, "battery-status", nil, &s, "gateway"); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s.Log)
			}
			return printOrders(c.OutOrStdout(), s.Log)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printOrders(w io.Writer, all []gateway.OrderLine) error {
	if len(all) == 0 {
		fmt.Fprintln(w, "nobody has commanded the battery")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "from\tby\tasked for\tstood\tdecided\telse\tin\tout\tcost")
	for _, l := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%.0f min\t%.0f min\t%s\t%.2f kWh\t%.2f kWh\tEUR %.2f\n", l.From.Local().Format("2 Jan 15:04"), l.By, l.Asked(), l.Minutes, l.Decided, l.Winner, l.InWh/1000, l.OutWh/1000, l.Cost)
	}
	return t.Flush()
}

// defaultOrder is how long an owner's command stands where it does not say.
const defaultOrder = time.Hour

func batteryOrder(verb, short string, sign float64) *cobra.Command {
	var power float64
	var until string
	c := &cobra.Command{
		Use: verb, Short: short, Args: noArgs,
		Long: short + ", until a time, at most a day ahead; the mask comes back by itself. What the meter shows\n" +
			"until then counts as exposed. Limits of battery and fuse, the grid operator and the aggregator come first.",
		Example: "  gridveil battery " + verb + " --power 2000 --until 14:30 --data ~/gridveil",
		RunE: func(c *cobra.Command, _ []string) error {
			if math.IsNaN(power) || power <= 0 {
				return usage("--power: want more than 0 W, got %g; `gridveil battery stop` lets the battery rest", power)
			}
			return order(c, sign*power, until)
		},
	}
	c.Flags().Float64Var(&power, "power", 0, "W at the meter's side")
	untilFlag(c, &until)
	_ = c.MarkFlagRequired("power") // the flag exists
	return c
}

func untilFlag(c *cobra.Command, until *string) {
	c.Flags().StringVar(until, "until", "", "end: 14:30 (local), 90m, or RFC 3339; empty: an hour from now")
}

func batteryStop() *cobra.Command {
	var until string
	c := &cobra.Command{
		Use: "stop", Short: "Let the battery rest, before the mask", Args: noArgs,
		Example: "  gridveil battery stop --until 90m --data ~/gridveil",
		RunE:    func(c *cobra.Command, _ []string) error { return order(c, 0, until) },
	}
	untilFlag(c, &until)
	return c
}

func order(c *cobra.Command, watts float64, until string) error {
	end, err := endOf(until, time.Now())
	if err != nil {
		return err
	}
	if err := ask(c, "battery-order", map[string]any{"w": watts, "until": end}, nil, "gateway"); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "asked for: the battery %s until %s; `gridveil battery release` ends it\n", doing(watts), end.Local().Format("15:04"))
	return nil
}

// endOf reads an end: a time of day, a span, or an instant.
func endOf(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return now.Add(defaultOrder), nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return t, usage("--until: want a time such as 14:30, a span such as 90m, or RFC 3339, got %q", text)
	}
	local := now.Local()
	at := time.Date(local.Year(), local.Month(), local.Day(), t.Hour(), t.Minute(), 0, 0, local.Location())
	if !at.After(now) {
		at = at.AddDate(0, 0, 1)
	}
	return at, nil
}

func batteryRelease() *cobra.Command {
	return &cobra.Command{
		Use: "release", Short: "End your command: the mask drives the battery again", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := ask(c, "battery-release", struct{}{}, nil, "gateway"); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "the mask drives the battery again")
			return nil
		},
	}
}

func batteryDial() *cobra.Command {
	return &cobra.Command{
		Use: "dial STOP", Short: "Choose cost against privacy: 0 private to 4 thrifty", Args: oneArg("a stop from 0 to 4"),
		Long: "Stop 0 hides as much as the battery can. Each further stop gives up bits a day for a lower bill where prices\n" +
			"change over the day; `gridveil battery status` and the Privacy page say what each means for this home.",
		RunE: func(c *cobra.Command, args []string) error {
			stop, err := strconv.Atoi(args[0])
			if err != nil {
				return usage("%q is no stop: want 0 (private) to 4 (thrifty)", args[0])
			}
			if err := ask(c, "battery-dial", map[string]int{"stop": stop}, nil, "gateway"); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "the dial stands at %d; the mask follows once it has learned again\n", stop)
			return nil
		},
	}
}

func batteryDevice() *cobra.Command {
	var d node.BatteryDevice
	c := &cobra.Command{
		Use: "device", Short: "Run a simulated battery that speaks SunSpec over Modbus TCP", Args: noArgs,
		Long: "A model of a battery and its inverter behind a real Modbus TCP server, to try a gateway without hardware:\n" +
			"set battery.driver = \"sunspec\" and battery.address to what is printed. It says in its registers that it is\n" +
			"simulated, and so do the gateway's pages. It gives a command up when the next does not come in time.",
		Example: "  gridveil battery device --listen 127.0.0.1:1502 --cap 5000 --power 3000",
		RunE: func(c *cobra.Command, _ []string) error {
			if d.Capacity <= 0 || d.Power <= 0 {
				return usage("--cap and --power: want more than 0")
			}
			if d.Control != "124" && d.Control != "704" {
				return usage("--control: want 124 or 704, got %q", d.Control)
			}
			d.Out = c.OutOrStdout()
			return d.Run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&d.Listen, "listen", "127.0.0.1:1502", "address of the Modbus TCP server")
	f.StringVar(&d.Control, "control", "124", "SunSpec model that commands it: 124 sets the battery, 704 the inverter's active power")
	f.Float64Var(&d.Capacity, "cap", 5000, "capacity in Wh")
	f.Float64Var(&d.Power, "power", 3000, "limit in W, both ways")
	f.Float64Var(&d.Charge, "soc", 50, "state of charge at the start, percent")
	f.DurationVar(&d.Lag, "lag", 2*time.Second, "dead time before a command acts")
	f.Float64Var(&d.Ramp, "ramp", 1500, "W per second; 0: at once")
	return c
}
