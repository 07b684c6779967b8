package wallet

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"gridveil/ev/pool"
	"gridveil/privacy/session"
)

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
		good bool
	}{
		{"nothing said", Options{}, true},
		{"a sale from a time on", Options{GiveMWh: 1, GiveFrom: 5, Departure: 6}, true},
		{"a sale on call", Options{GiveMWh: 1, OnCall: true}, true},
		{"a band that nobody sells", Options{Band: 7}, false},
		{"more for sure than wanted", Options{WantMWh: 1, FloorMWh: 2}, false},
		{"a time without a sale", Options{GiveFrom: 5}, false},
		{"on call without a sale", Options{OnCall: true}, false},
		{"a sale after the departure", Options{GiveMWh: 1, GiveFrom: 6, Departure: 6}, false},
		{"on call, and never moved", Options{GiveMWh: 1, OnCall: true, Fixed: true}, false},
	} {
		if err := c.o.check(); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestWalletSignsOnlyWhatItsDriverAgreedTo: each way in which an offer to the pool
// could go beyond the session's terms and the driver's wishes.
func TestWalletSignsOnlyWhatItsDriverAgreedTo(t *testing.T) {
	net := [8]byte{'n'}
	host := ed25519.NewKeyFromSeed(make([]byte, 32))
	now := time.UnixMilli(pool.SlotMS * 1000).Add(-10 * time.Minute)
	charges := agreed{Options: Options{Band: 20, WantMWh: 10_000_000, FloorMWh: 4_000_000, Departure: now.Add(2 * time.Hour).UnixMilli()},
		open: [32]byte{1}, hpk: [32]byte(host.Public().(ed25519.PublicKey)), meter: [32]byte{2}, maxW: 11_000, cap: 20_000_000, price: 335_000,
		had: session.Energy{Grid: 1_000_000}, spent: 335_000}
	gives := charges
	gives.Options, gives.sells, gives.had = Options{Band: 20, GiveMWh: 5_000_000}, true, session.Energy{Out: 1_000_000}
	offer := func(edit func(*pool.Flex)) *pool.Flex {
		f := &pool.Flex{Open: [32]byte{1}, Meter: pool.MeterCert{Key: [32]byte{2}, MaxW: 22_000}, From: pool.SlotMS * 1000, MinMWh: 3_500_000, MaxMWh: 9_000_000}
		for k := range 4 {
			f.Envelopes[k] = pool.Envelope{BaselineW: 9_000, UpW: 5_000, DownW: 2_000}
		}
		edit(f)
		f.SignHost(host, net)
		return f
	}
	sells := func(f *pool.Flex) {
		f.MinMWh, f.MaxMWh = -4_000_000, 0
		for k := range f.Envelopes {
			f.Envelopes[k] = pool.Envelope{BaselineW: -500, UpW: 8_000, DownW: 500}
		}
	}
	with := func(a agreed, edit func(*agreed)) agreed { edit(&a); return a }
	none := func(*pool.Flex) {}
	for _, c := range []struct {
		name string
		a    agreed
		edit func(*pool.Flex)
		good bool
	}{
		{"what was agreed", charges, none, true},
		{"a sale that was agreed", gives, sells, true},
		{"a car that is to be left alone", with(charges, func(a *agreed) { a.Fixed = true }), none, false},
		{"another session", charges, func(f *pool.Flex) { f.Open[0]++ }, false},
		{"another meter", charges, func(f *pool.Flex) { f.Meter.Key[0]++ }, false},
		{"another host", with(charges, func(a *agreed) { a.hpk[0]++ }), none, false},
		{"slots that have begun", charges, func(f *pool.Flex) { f.From -= pool.SlotMS }, false},
		{"slots of another day", charges, func(f *pool.Flex) { f.From += 4 * pool.SlotMS }, false},
		{"more power than the wallbox has", charges, func(f *pool.Flex) { f.Envelopes[3].DownW = 2_001 }, false},
		{"a sale that nobody agreed to", charges, func(f *pool.Flex) { f.Envelopes[0].UpW = 9_001 }, false},
		{"a sale from a host that sells nothing", with(gives, func(a *agreed) { a.sells = false }), sells, false},
		{"more out of the car", gives, func(f *pool.Flex) { sells(f); f.MinMWh-- }, false},
		{"a sale on call", with(gives, func(a *agreed) { a.OnCall = true }), func(f *pool.Flex) {
			sells(f)
			for k := range f.Envelopes {
				f.Envelopes[k] = pool.Envelope{UpW: 8_000}
			}
		}, true},
		{"a sale that nobody called for", with(gives, func(a *agreed) { a.OnCall = true }), sells, false},
		{"a sale from the second slot on", with(gives, func(a *agreed) { a.GiveFrom = pool.SlotMS*1001 - 1 }), sells, true},
		{"a sale before the driver's time", with(gives, func(a *agreed) { a.GiveFrom = pool.SlotMS * 1001 }), sells, false},
		{"energy into a car that only gives", gives, func(f *pool.Flex) { sells(f); f.MaxMWh = 1 }, false},
		{"more into the car", charges, func(f *pool.Flex) { f.MaxMWh++ }, false},
		{"too little by the departure", with(charges, func(a *agreed) { a.FloorMWh = 6_400_000 }), none, false},
		{"more than it may cost", with(charges, func(a *agreed) { a.cap = 3_349_999 }), none, false},
	} {
		if err := c.a.judge(offer(c.edit), net, now, 0); (err == nil) != c.good || err != nil && !errors.Is(err, errAssent) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
