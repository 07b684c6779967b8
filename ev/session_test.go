package ev_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"gridveil/ev"
)

// run feeds inputs one second apart and returns the last session and all outputs but Store as text. It checks on the
// way that whatever changed is stored first, and survives the store.
func run(t interface{ Fatalf(string, ...any) }, s ev.Session, inputs ...ev.Input) (ev.Session, []string) {
	var said []string
	for i, in := range inputs {
		now := int64(i+1) * 1000
		if due := s.Until; due != 0 {
			if _, is := in.(ev.Timer); is {
				now = due
			}
		}
		next, out := ev.Step(s, in, now)
		if next != s || len(out) > 0 {
			if st, ok := out[0].(ev.Store); !ok || st.Session != next {
				t.Fatalf("%T: first output is %v, want Store of the new session", in, out)
			}
			out = out[1:]
		}
		loaded, err := ev.DecodeSession(next.Encode())
		next.Version = loaded.Version
		if err != nil || loaded != next {
			t.Fatalf("stored %+v, loaded %+v, %v", next, loaded, err)
		}
		for _, o := range out {
			said = append(said, strings.TrimPrefix(fmt.Sprintf("%T%v", o, o), "ev."))
		}
		s = next
	}
	return s, said
}

func started(id, code string) ev.Event {
	return ev.Event{Kind: ev.Started, At: 5000, TransactionID: id, IDToken: code}
}

func ended(id string) ev.Event { return ev.Event{Kind: ev.Ended, At: 9000, TransactionID: id} }

var (
	rules  = ev.Rules{Margin: 100_000}
	opened = []ev.Input{ev.Event{Kind: ev.Status, State: "Preparing"}, ev.Limit{W: 11_000}, ev.Open{Code: "CODE", Rules: rules}}
	shares = ev.Shares{Host: 1_320_000, Fee: 110_000, Total: 1_430_000}
	energy = ev.Energy{Res: 7_345_000}
)

func inputs(head []ev.Input, more ...ev.Input) []ev.Input {
	return append(append([]ev.Input(nil), head...), more...)
}

func TestSessionGoesFromPlugToPay(t *testing.T) {
	s, said := run(t, ev.Session{}, inputs(opened, ev.Authorised{Band: 10_000_000}, started("7", "CODE"), ev.Power{W: 10_800},
		ev.SoFar{Energy: energy, Shares: shares}, ended("7"), ev.Billed{Energy: energy, Shares: shares},
		ev.Recorded{Form: ev.Signed}, ev.Receipt{}, ev.PaidOut{})...)
	if s.State != ev.Paid {
		t.Errorf("ended as %v", s.State)
	}
	want := []string{"StartTransaction{CODE}", "SetPower{11000}", "Report{{0 7345000 0} {1320000 0 0 0 110000 1430000}}",
		"Finish{{0 7345000 0} {1320000 0 0 0 110000 1430000}}"}
	if d := cmp.Diff(want, said); d != "" {
		t.Errorf("outputs (-want +got):\n%s", d)
	}
}

func TestSessionsThatDoNotGoAsPlanned(t *testing.T) {
	trust := ev.Rules{Offline: ev.OfflineTrust}
	gift := ev.Rules{Offline: ev.OfflineGift, OnCut: ev.CutGift}
	refuse := ev.Rules{Offline: ev.OfflineRefuse}
	open := func(r ev.Rules) []ev.Input { return []ev.Input{ev.Limit{W: 7000}, ev.Open{Code: "CODE", Rules: r}} }
	charging := inputs(open(trust), ev.Authorised{Band: 10_000_000}, started("7", "CODE"), ev.Power{W: 6900})
	giving := inputs(open(gift), ev.Authorised{Band: 10_000_000}, started("7", "CODE"), ev.SoFar{Shares: shares}, ev.GuestLeft{})
	for _, c := range []struct {
		name   string
		in     []ev.Input
		state  ev.State
		said   string
		assert func(ev.Session) bool
	}{
		{"no answer in five seconds: trust waits for the certificate", inputs(open(trust), ev.Timer{}), ev.Opened, "", nil},
		{"and starts when it is shown", inputs(open(trust), ev.Timer{}, ev.Authorised{Band: 10_000_000, Trusted: true}), ev.Starting,
			"StartTransaction{CODE}", func(s ev.Session) bool { return s.Offline }},
		{"no answer: gift starts at the host's cost", inputs(open(gift), ev.Timer{}), ev.Starting, "StartTransaction{CODE}",
			func(s ev.Session) bool { return s.Payer == ev.Gift }},
		{"no answer: refuse says so", inputs(open(refuse), ev.Timer{}), ev.Idle, "Refuse", nil},
		{"three tries of a minute, then back with a reason", inputs(open(trust), ev.Authorised{Band: 1}, ev.Timer{}, ev.Timer{}, ev.Timer{}), ev.Opened,
			"StartTransaction{CODE} StartTransaction{CODE} StartTransaction{CODE}", func(s ev.Session) bool { return s.Reason != "" }},
		{"a transaction with another token is not ours", inputs(open(trust), ev.Authorised{Band: 1}, started("7", "OTHER")), ev.Starting, "StartTransaction{CODE}", nil},
		{"a car that charges already is stopped and restarted", inputs(open(trust), started("3", "CARD"), ev.Authorised{Band: 1}, ended("3"), started("7", "CODE")),
			ev.Paused, "StopTransaction{3} StartTransaction{CODE} SetPower{7000}", nil},
		{"a missing Ack pauses, an Ack goes on", inputs(charging, ev.GuestSilent{}, ev.GuestBack{}), ev.Charging,
			"StartTransaction{CODE} SetPower{7000} SetPower{0} SetPower{7000}", nil},
		{"near the band the car pauses for good", inputs(charging, ev.SoFar{Shares: ev.Shares{Host: 10_000_000, Total: 10_000_000}}, ev.SoFar{}, ev.GuestBack{}),
			ev.Charging, "StartTransaction{CODE} SetPower{7000} Report SetPower{0} Report", nil},
		{"the wallet stays away: the transaction ends and the last Tick is settled", inputs(charging, ev.GuestLeft{}, ended("7"),
			ev.Billed{Shares: shares}, ev.Recorded{Form: ev.Cut}), ev.Cut, "StartTransaction{CODE} SetPower{7000} StopTransaction{7} SetPower{0} Finish", nil},
		{"the wallet stays away and the rest is a gift", inputs(giving, ev.Recorded{Form: ev.Cut}, ended("7"), ev.Receipt{}), ev.Receipted,
			"StartTransaction{CODE} SetPower{7000} Report Finish", nil},
		{"nothing was acknowledged: all of it is a gift", inputs(giving, ev.Unbillable{}, ended("7"), ev.Billed{Shares: shares}), ev.GiftEnd,
			"StartTransaction{CODE} SetPower{7000} Report Finish", func(s ev.Session) bool { return s.Shares == ev.Shares{} }},
		{"no usable evidence: shown, but nobody pays", inputs(charging, ended("7"), ev.Unbillable{Reason: "no-end"}), ev.Informational,
			"StartTransaction{CODE} SetPower{7000} Finish{{0 0 0} {0 0 0 0 0 0}}", func(s ev.Session) bool { return s.Reason == "no-end" }},
		{"refused after a start on trust: stopped and disputed", inputs(open(trust), ev.Timer{}, ev.Authorised{Band: 10_000_000, Trusted: true}, started("7", "CODE"), ev.Declined{}),
			ev.Paused, "StartTransaction{CODE} SetPower{7000} StopTransaction{7} SetPower{0}", func(s ev.Session) bool { return s.Disputed }},
		{"the answer comes after a start on trust", inputs(open(trust), ev.Timer{}, ev.Authorised{Band: 10_000_000, Trusted: true}, ev.Authorised{Band: 20_000_000}),
			ev.Starting, "StartTransaction{CODE}", func(s ev.Session) bool { return !s.Offline && s.Band == 20_000_000 }},
		{"the own car sends and pays nothing", inputs(nil, ev.Limit{W: 7000}, ev.StartOwn{Code: "HOME"}, started("7", "HOME"), ev.Power{W: 7000},
			ended("7"), ev.Billed{Energy: energy, Shares: shares}), ev.Informational, "StartTransaction{HOME} SetPower{7000}", nil},
		{"no lock, no sale", inputs(charging, ev.Limit{W: -5000}), ev.Charging, "StartTransaction{CODE} SetPower{7000} SetPower{0}", nil},
		{"a lock opens the sale, and its end closes it", inputs(charging, ev.Limit{W: -5000}, ev.Locked{Value: 1_000_000}, ev.Power{W: -5000},
			ev.SoFar{Shares: ev.Shares{HostOwes: 1_000_000, Driver: 1_000_000}}), ev.Discharging,
			"StartTransaction{CODE} SetPower{7000} SetPower{0} SetPower{-5000} Report SetPower{0}", nil},
		{"power within the dead band is a pause", inputs(charging, ev.Power{W: -100}), ev.Paused, "StartTransaction{CODE} SetPower{7000}", nil},
		{"power in a meter value moves the state", inputs(charging, ev.Event{Kind: ev.Values, TransactionID: "7", Samples: []ev.Sample{{Value: "0", Measurand: "Power.Active.Import"}}}),
			ev.Paused, "StartTransaction{CODE} SetPower{7000}", nil},
		{"the end of another transaction ends nothing", inputs(charging, ended("8")), ev.Charging, "StartTransaction{CODE} SetPower{7000}", nil},
		{"stopped before the start", inputs(open(trust), ev.Stop{}), ev.Idle, "Refuse", nil},
		{"a bill above the band is the host's loss", inputs(charging, ended("7"), ev.Billed{Shares: ev.Shares{Host: 12_000_000, Fee: 1_000_000, Total: 13_000_000}}),
			ev.EndedState, "StartTransaction{CODE} SetPower{7000} Finish{{0 0 0} {9000000 0 0 0 1000000 10000000}}", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, said := run(t, ev.Session{}, c.in...)
			if s.State != c.state {
				t.Errorf("state %v, want %v", s.State, c.state)
			}
			for i, w := range said {
				if name, _, _ := strings.Cut(w, "{"); name == "Report" || name == "Refuse" || name == "Finish" && !strings.Contains(c.said, w) {
					said[i] = name
				}
			}
			if got := strings.Join(said, " "); got != c.said {
				t.Errorf("outputs\n got %s\nwant %s", got, c.said)
			}
			if c.assert != nil && !c.assert(s) {
				t.Errorf("session %+v", s)
			}
		})
	}
}

// G1: whatever arrives, in whatever order, a session finishes at most once, starts a final state never again, and never
// lets a car sell energy without a lock.
func TestRandomInputsNeverFinishTwiceNorSellWithoutLock(t *testing.T) {
	all := []ev.Input{ev.Open{Code: "CODE", Rules: rules}, ev.Authorised{Band: 5_000_000}, ev.Authorised{Band: 5_000_000, Trusted: true},
		ev.Declined{}, ev.StartOwn{Code: "HOME"}, ev.StartOwn{Code: "CODE", Gift: true}, ev.GuestSilent{}, ev.GuestBack{}, ev.GuestLeft{},
		ev.Locked{Value: 2_000_000}, ev.Power{W: 5000}, ev.Power{W: -5000}, ev.Power{}, ev.Limit{W: 5000}, ev.Limit{W: -5000},
		ev.SoFar{Shares: shares}, ev.Stop{}, ev.Billed{Shares: shares}, ev.Unbillable{}, ev.Recorded{Form: ev.Signed},
		ev.Recorded{Form: ev.Cut}, ev.Receipt{}, ev.PaidOut{}, ev.Contested{}, ev.Timer{}, started("7", "CODE"), started("8", "HOME"),
		ended("7"), ended("8"), ev.Event{Kind: ev.Status, State: "Available"}, ev.Event{Kind: ev.Status, State: "Occupied"}}
	rapid.Check(t, func(t *rapid.T) {
		var s ev.Session
		finished := 0
		for i, in := range rapid.SliceOfN(rapid.SampledFrom(all), 1, 80).Draw(t, "inputs") {
			final := s.State.Final()
			next, out := ev.Step(s, in, int64(i)*20_000)
			for _, o := range out {
				switch o := o.(type) {
				case ev.Finish:
					finished++
					if o.Shares.Total > s.Band {
						t.Fatalf("finished with %d above the band %d", o.Shares.Total, s.Band)
					}
				case ev.SetPower:
					if o.W < 0 && next.Payer == ev.Guest && next.Locked == 0 || o.W < 0 && next.Payer == ev.Gift {
						t.Fatalf("discharge without lock: %+v", next)
					}
				case ev.StartTransaction, ev.StopTransaction, ev.Report:
					if final {
						t.Fatalf("%T in final state %v", o, s.State)
					}
				}
			}
			if final && next.State != s.State {
				t.Fatalf("left final state %v for %v", s.State, next.State)
			}
			s = next
		}
		if finished > 1 {
			t.Fatalf("finished %d times", finished)
		}
	})
}

func TestRestartRepeatsWhatIsOpen(t *testing.T) {
	s, _ := run(t, ev.Session{}, inputs(opened, ev.Authorised{Band: 10_000_000})...)
	if got := fmt.Sprint(ev.Outstanding(s)); got != "[{CODE}]" {
		t.Errorf("starting: got %s", got)
	}
	s, _ = run(t, s, started("7", "CODE"))
	if got := fmt.Sprint(ev.Outstanding(s)); got != "[{11000}]" {
		t.Errorf("running: got %s", got)
	}
	s, _ = run(t, s, ended("7"), ev.Billed{Energy: energy, Shares: shares})
	if got := ev.Outstanding(s); len(got) != 1 || got[0] != (ev.Finish{Energy: energy, Shares: shares}) {
		t.Errorf("ended: got %v", got)
	}
}

func TestStoredSessionOfAnotherVersionIsRefused(t *testing.T) {
	for _, raw := range []string{`{}`, `{"Version":2}`, `{"Version":1,"State":99}`, `{"Version":1,"New":1}`, `[`, ``} {
		if _, err := ev.DecodeSession([]byte(raw)); err == nil {
			t.Errorf("%s was read", raw)
		}
	}
}

func FuzzDecodeSession(f *testing.F) {
	f.Add(ev.Session{State: ev.Charging, Code: "CODE"}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ev.DecodeSession(b)
		if err != nil {
			return
		}
		if again, err := ev.DecodeSession(s.Encode()); err != nil || again != s {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}

func TestMarginCoversWhatTheCarDrawsWhileReacting(t *testing.T) {
	d := exampleDeal(t, false)
	// 11 kW for 90 s are 0.275 kWh at 0.335 EUR, and one cent.
	if got := ev.MarginFor(d, 11_000, 90_000); got != 92_125+10_000 {
		t.Errorf("got %d", got)
	}
}

// G1: a gateway that dies between a store write and what follows it, at any step, loses nothing of what must be done.
func TestAGatewayThatDiesAtAnyStoreWriteRepeatsWhatIsOpen(t *testing.T) {
	for name, in := range map[string][]ev.Input{
		"billed": inputs(opened, ev.Authorised{Band: 10_000_000}, started("7", "CODE"), ev.SoFar{Energy: energy, Shares: shares}, ev.Stop{},
			ended("7"), ev.Billed{Energy: energy, Shares: shares}),
		"cut":            inputs(opened, ev.Authorised{Band: 10_000_000}, started("7", "CODE"), ev.GuestLeft{}, ended("7"), ev.Billed{Shares: shares}),
		"restarted":      inputs(opened, started("3", "CARD"), ev.Authorised{Band: 10_000_000}, ended("3"), started("7", "CODE")),
		"not billable":   inputs(opened, ev.Authorised{Band: 10_000_000}, started("7", "CODE"), ended("7"), ev.Unbillable{Reason: "no-end"}),
		"rest is a gift": {ev.Open{Code: "CODE", Rules: ev.Rules{OnCut: ev.CutGift}}, ev.Authorised{Band: 10_000_000}, started("7", "CODE"), ev.GuestLeft{}, ended("7")},
	} {
		t.Run(name, func(t *testing.T) {
			want, _ := run(t, ev.Session{}, in...)
			for crash := range in {
				s, _ := run(t, ev.Session{}, in[:crash]...)
				next, out := ev.Step(s, in[crash], int64(crash+1)*1000)
				open := fmt.Sprint(ev.Outstanding(next))
				for _, o := range out {
					switch o.(type) {
					case ev.StartTransaction, ev.StopTransaction, ev.SetPower, ev.Finish:
						if text := fmt.Sprint(o); !strings.Contains(open, text) {
							t.Errorf("died after %T: %T%s is lost, outstanding is %s", in[crash], o, text, open)
						}
					}
				}
				for i, in := range in[crash+1:] {
					next, _ = ev.Step(next, in, int64(crash+i+2)*1000)
				}
				if next.Version = want.Version; next != want {
					t.Errorf("died after %T: got %+v, want %+v", in[crash], next, want)
				}
			}
		})
	}
}
