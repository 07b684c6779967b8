package gateway_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gridveil/node"
	"gridveil/node/gateway"
	"gridveil/node/model"
	"gridveil/node/site"
	"gridveil/privacy/leak"
)

// TestPageAndCommandGiveTheSameFigures: a home's readings and a recording of the
// same days say the same of every party that reads the meter.
func TestPageAndCommandGiveTheSameFigures(t *testing.T) {
	const days, slot = 3, 15 * time.Minute
	r := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	csv, register := []byte("time,load_w\n"), int64(5_000_000)
	readings := []model.Reading{{Slot: start.Add(-slot).UnixMilli(), Register: register}}
	exported := []model.Reading{{Slot: start.Add(-slot).UnixMilli()}}
	for i := range days * 96 {
		at, watts := start.Add(time.Duration(i)*slot), int64(80+60*r.IntN(9))
		for m := range 15 {
			csv = fmt.Appendf(csv, "%s,%d\n", at.Add(time.Duration(m)*time.Minute).Format("2006-01-02T15:04"), watts)
		}
		register += watts * 250
		readings = append(readings, model.Reading{Slot: at.UnixMilli(), Register: register})
		exported = append(exported, model.Reading{Slot: at.UnixMilli()})
	}
	in := filepath.Join(t.TempDir(), "home.csv")
	if err := os.WriteFile(in, csv, 0o600); err != nil {
		t.Fatal(err)
	}
	command, err := node.BatteryParties{In: in, Period: slot, Step: 1, Homes: 20, Learn: days - 1}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	midnight := start.AddDate(0, 0, days-1).UnixMilli()
	register20 := leak.Sum{Homes: 20, Most: 16383, Times: 96}
	h := leak.Home{Curves: []leak.Curve{gateway.CurveOf(readings, midnight, slot), gateway.CurveOf(exported, midnight, slot)}, Period: slot, Covered: true, Sums: []leak.Sum{register20, register20}}
	page := site.ToldLines(h.Parties())
	for _, p := range []leak.Party{leak.Utility, leak.HeadEnd, leak.Zone, leak.OneServer, leak.BothServers, leak.EVAggregator} {
		a, b := page[p-1], command.Parties[p-1]
		if a.Load.Words != b.Load.Words || a.Load.ModelWords != b.Load.ModelWords || a.Load.Basis != b.Load.Basis || a.Party != b.Party {
			t.Errorf("%s: %+v on the page, %+v by the command", a.Party, a.Load, b.Load)
		}
	}
	if told := *page[leak.Utility-1].Load.AtMost; told < 250 || told > 450 {
		t.Errorf("nine values, evenly, 96 times are 304 bits, not %.1f", told)
	}
}
