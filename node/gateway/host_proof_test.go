package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"gridveil/node/config"
	"gridveil/node/monthly"
	"gridveil/node/wallet"
)

// monthFile is the signed statement of a month as `gridveil guest statement` or
// `gridveil wallet statement` prints it.
func (s *scene) monthFile(of func(month string, signed bool) (monthly.Statement, error)) []byte {
	s.t.Helper()
	x, err := of(s.clock.Now().Local().Format("2006-01"), true)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := x.JSON()
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *scene) hostFile() []byte {
	return s.monthFile(func(month string, signed bool) (monthly.Statement, error) {
		return s.h().month(monthAsked{month, signed})
	})
}

// judged wants an outsider to find one session in the file, and it proved.
func (s *scene) judged(file []byte) monthly.Judged {
	s.t.Helper()
	j, err := monthly.Judge(bytes.NewReader(file), nil)
	if err != nil || j.Proved != 1 || j.Unproved != 0 {
		s.t.Fatalf("judged %+v: %v\n%s", j, err, file)
	}
	return j.Sessions[0]
}

// TestAStatementConvincesAnOutsider gives a month's statements of house and driver
// to somebody who has nothing but the file, and then changes what they say.
func TestAStatementConvincesAnOutsider(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500, pvW: 3_000})
	s.plug(electric())
	s.pay(wallet.Options{Band: 20, WantMWh: 3_000_000})
	row := s.ends("paid")
	file := s.hostFile()
	host, driver := s.judged(file), s.judged(s.monthFile(s.w().Month))
	if host.ID != row.ID || driver.ID != row.ID || host.Agreed != "signed by host and driver" || host.MeterKey == "" || driver.MeterKey != host.MeterKey {
		t.Errorf("the house's file shows %+v, the driver's %+v", host, driver)
	}

	for what, change := range map[string]func(*monthly.Statement){
		"a sum":             func(x *monthly.Statement) { x.Earned += 10_000 },
		"an amount":         func(x *monthly.Statement) { x.Sessions[0].Earned += 10_000; x.Earned += 10_000 },
		"what was paid":     func(x *monthly.Statement) { x.Sessions[0].Paid += 10_000; x.Paid += 10_000 },
		"an energy":         func(x *monthly.Statement) { x.Sessions[0].InMWh += 1000; x.InMWh += 1000 },
		"the meter":         func(x *monthly.Statement) { x.Sessions[0].MeterKey = "04aa" },
		"a reading":         func(x *monthly.Statement) { x.Sessions[0].Readings[0].OCMF += " " },
		"a price":           func(x *monthly.Statement) { x.Sessions[0].Papers.Offer[80]++ },
		"the agreed meter":  func(x *monthly.Statement) { x.Sessions[0].Papers.Offer[45]++ },
		"the fees":          func(x *monthly.Statement) { x.Sessions[0].Papers.Fees[len(x.Sessions[0].Papers.Fees)-1]++ },
		"the record":        func(x *monthly.Statement) { x.Sessions[0].Papers.Close[80]++ },
		"the network":       func(x *monthly.Statement) { x.Sessions[0].Papers.Network = "0011223344556677" },
		"the name":          func(x *monthly.Statement) { x.Sessions[0].ID = "0000-00" },
		"whose it is":       func(x *monthly.Statement) { x.Of = "driver" },
		"when it ended":     func(x *monthly.Statement) { x.Sessions[0].End = x.Sessions[0].End.AddDate(0, 0, 1) },
		"a session, twice":  func(x *monthly.Statement) { twice(x) },
		"a number too high": func(x *monthly.Statement) { x.Sessions[0].Paid = 1 << 62 },
	} {
		var x monthly.Statement
		if err := json.Unmarshal(file, &x); err != nil {
			t.Fatal(err)
		}
		change(&x)
		b, err := x.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := monthly.Judge(bytes.NewReader(b), nil); !errors.Is(err, monthly.ErrStatement) {
			t.Errorf("with %s changed: got %v", what, err)
		}
	}
}

func twice(x *monthly.Statement) {
	y := x.Sessions[0]
	x.Sessions = append(x.Sessions, y)
	x.InMWh, x.OutMWh, x.Paid, x.Earned = 2*y.InMWh, 2*y.OutMWh, 2*y.Paid, 2*y.Earned
}

// TestAPriceSetLaterLeavesAnOpenSessionAlone starts the house anew with dearer
// prices while a guest charges: the session costs what its offer said, the file
// shows which price that was, and a next guest is asked the new one.
func TestAPriceSetLaterLeavesAnOpenSessionAlone(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500, config: func(c *config.Config) { c.Hosting.PGrid = 320_000 }})
	s.plug(electric())
	s.pay(wallet.Options{Band: 20, WantMWh: 4_000_000})
	s.eventually("acknowledged energy", func() bool { r := s.w().Sessions(); return len(r) == 1 && r[0].KWhIn > 0.5 })
	s.stopNode(s.home)
	s.home.env.Config.Hosting.PGrid = 640_000
	s.startHost()
	row := s.ends("paid")
	s.judged(s.hostFile())
	for _, b := range s.market.Settled() {
		energy := row.KWhIn
		if most := 0.32*energy + 0.01; float64(b.Host)/1e6 > most || float64(b.Host)/1e6 < 0.31*energy {
			t.Errorf("the house earns %d for %.3f kWh at 0.32", b.Host, energy)
		}
	}
	s.books(1)
}

// TestTheLedgersEntryStandsForADriversSession shows an outsider with the ledger's
// policy which entry a session became, and that it stands for no other record.
func TestTheLedgersEntryStandsForADriversSession(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	s.plug(electric())
	s.pay(wallet.Options{Band: 20, WantMWh: 1_000_000})
	s.ends("paid")
	s.eventually("receipt", func() bool { r := s.w().Sessions(); return len(r) == 1 && r[0].State == "receipted" })
	if err := s.w().LookAtLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.stopNode(s.guest) // the entry outlives a restart
	s.startWallet()
	policy, err := s.market.Policy()
	if err != nil {
		t.Fatal(err)
	}
	file := s.monthFile(s.w().Month)
	if j, err := monthly.Judge(bytes.NewReader(file), policy); err != nil || j.Proved != 1 || !j.Sessions[0].OnLedger {
		t.Fatalf("judged %+v: %v", j, err)
	}
	if s.judged(file).OnLedger {
		t.Error("without a policy an entry is believed")
	}
	for what, change := range map[string]func(*monthly.Booked){
		"salt":  func(b *monthly.Booked) { b.Salt[0]++ },
		"entry": func(b *monthly.Booked) { b.Entry[40]++ },
		"proof": func(b *monthly.Booked) { b.EntryProof = "" },
	} {
		var x monthly.Statement
		if err := json.Unmarshal(file, &x); err != nil {
			t.Fatal(err)
		}
		change(x.Sessions[0].Papers.Booked)
		b, err := x.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := monthly.Judge(bytes.NewReader(b), policy); !errors.Is(err, monthly.ErrStatement) {
			t.Errorf("another %s: got %v", what, err)
		}
	}
}

// TestADriverWhoLeftCannotSpoilTheHousesStatement has a session that nobody but
// the house signed in the end: its statement says what was acknowledged.
func TestADriverWhoLeftCannotSpoilTheHousesStatement(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	s.plug(electric())
	s.pay(wallet.Options{Band: 20})
	s.eventually("acknowledged energy", func() bool { r := s.w().Sessions(); return len(r) == 1 && r[0].KWhIn > 0.5 })
	s.stopNode(s.guest)
	s.ends("paid")
	if host := s.judged(s.hostFile()); host.Agreed == "signed by host and driver" {
		t.Errorf("the driver is said to have signed: %+v", host)
	}
	var x monthly.Statement
	if err := json.Unmarshal(s.hostFile(), &x); err != nil {
		t.Fatal(err)
	}
	for _, b := range s.market.Settled() {
		total := fmt.Sprintf("EUR %d.%02d", b.Values.Pay/1_000_000, b.Values.Pay/10_000%100)
		if row := s.newest(); x.Earned != b.Host || x.Paid != b.Values.Pay || row.Total != total {
			t.Errorf("the statement has %d paid and %d earned, the page %s, booked are %d and %d", x.Paid, x.Earned, row.Total, b.Values.Pay, b.Host)
		}
	}
	s.books(1)
}
