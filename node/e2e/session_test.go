package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gridveil/ev/evsim"
	"gridveil/node/control"
	"gridveil/node/identity"
	"gridveil/node/wallet"
	"gridveil/node/web"
)

// wallbox is a foreign charge point at the home: an OCPP client on a real
// websocket with a signing meter, stepped each second of the wall clock.
type wallbox struct {
	cp   *evsim.ChargePoint
	stop context.CancelFunc
	done chan error
}

const (
	station  = "evse-1"
	password = "a simulated wallbox"
)

// newWallbox draws the meter's key and gives what the gateway must know of it.
func newWallbox(t *testing.T) (w *wallbox, toml string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	listen := "127.0.0.1:" + freePort(t)
	cp, err := evsim.New(evsim.Config{ID: station, URL: "ws://" + listen + "/ocpp", Version: "2.0.1", Password: password, Key: key, Serial: "E2E-1", Phases: 3, MaxW: 11_000})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := cp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	toml = fmt.Sprintf("[evse]\nlisten = %q\nmax_w = 11000\nstation = %q\nmeter_key = %q\n[hosting]\nenabled = true\nlisten = \"127.0.0.1:%s\"\n",
		listen, station, hex.EncodeToString(pub), freePort(t))
	return &wallbox{cp: cp}, toml
}

// run connects and steps the wallbox until the test ends.
func (b *wallbox) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	b.stop, b.done = cancel, make(chan error, 2)
	go func() { b.done <- b.cp.Run(ctx) }()
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-ctx.Done():
				b.done <- nil
				return
			case now := <-tick.C:
				b.cp.Step(last, now.Sub(last))
				last = now
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-b.done; err != nil && ctx.Err() == nil {
				t.Errorf("wallbox: %v", err)
			}
		}
	})
}

// ledgerOf is the ledger as a node has it.
func (d *day) ledgerOf(name string) (l web.Ledger, err error) {
	err = control.Call(d.t.Context(), d.path(name), "ledger", nil, &l)
	return l, err
}

// ledgerFounded waits until every founder has cosigned a first checkpoint.
func (d *day) ledgerFounded() {
	eventually(d.t, time.Minute, func() string {
		l, err := d.ledgerOf("evagg")
		if err != nil {
			return err.Error()
		}
		if l.CosignedSize == 0 {
			return fmt.Sprintf("%d entries, none final, %s", l.Size, l.Quorum)
		}
		return ""
	})
}

// customer opens the driver's contract, starts the wallet and waits for its
// pseudonyms.
func (d *day) customer() {
	id, err := identity.Load(d.path("driver"), time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	cli(d.t, "contract", "driver", hex.EncodeToString(id.Member.Key[:]), "--data", d.path("utility-b"))
	d.p("driver").stop() // at its start it asks at once
	d.p("driver").start()
	eventually(d.t, time.Minute, func() string {
		var decks []wallet.DeckStanding
		if err := control.Call(d.t.Context(), d.path("driver"), "deck", nil, &decks); err != nil {
			return err.Error()
		}
		if len(decks) == 0 || decks[0].Left == 0 {
			return "no pseudonyms yet"
		}
		return ""
	})
}

// pay lets a car arrive and opens a session through the guest door.
func (d *day) pay() {
	if d.box.stop == nil {
		d.box.run(d.t)
	}
	eventually(d.t, time.Minute, func() string {
		if !d.box.cp.Status().Online {
			return "the wallbox is not connected"
		}
		if d.session == "" {
			if d.car == nil {
				d.car = &evsim.Car{CapacityMWh: 60_000_000, EnergyMWh: 20_000_000, MaxChargeW: 11_000}
				if err := d.box.cp.Plug(time.Now(), d.car); err != nil {
					d.t.Fatal(err)
				}
			}
			link, err := tryCLI(d.t, "guest", "link", "--gateway", "127.0.0.1", "--data", d.path("home"))
			if err != nil {
				return err.Error()
			}
			out, err := tryCLI(d.t, "wallet", "pay", link, "--band", "20", "--data", d.path("driver"))
			if err != nil {
				return err.Error()
			}
			d.session = out
		}
		return ""
	})
	eventually(d.t, 40*time.Second, func() string {
		if s := d.box.cp.Status(); s.PowerW < 1000 {
			return fmt.Sprintf("the car draws %d W: %+v", s.PowerW, d.sessions("home"))
		}
		return ""
	})
}

// limit has the grid's operator limit the zone, and sees the car at a stranger's
// wallbox obey; then the limit ends by itself.
func (d *day) limit() {
	power := func(what string, ok func(w int64) bool) {
		eventually(d.t, 40*time.Second, func() string {
			if w := d.box.cp.Status().PowerW; !ok(w) {
				return fmt.Sprintf("%s: the car draws %d W", what, w)
			}
			return ""
		})
	}
	power("before the limit", func(w int64) bool { return w > 6000 })
	cli(d.t, "grid", "limit", "--import", "1000", "--for", "5s", "--data", d.path("ssn-elm"))
	power("with a limit of 1 kW, of which the law leaves 4.2", func(w int64) bool { return w > 4000 && w <= 4200 })
	power("after the limit", func(w int64) bool { return w > 6000 })
}

func (d *day) sessions(name string) (rows []web.SessionRow) {
	d.t.Helper()
	if err := control.Call(d.t.Context(), d.path(name), "sessions", nil, &rows); err != nil {
		d.t.Fatal(err)
	}
	return rows
}

// leave lets the car go and waits until both sides are settled.
func (d *day) leave() {
	d.box.cp.Unplug(time.Now())
	for _, name := range []string{"home", "evagg", "driver", "ssn-elm", "utility-b"} {
		d.cut(name)
	}
	eventually(d.t, 150*time.Second, func() string {
		host, guest := d.sessions("home"), d.sessions("driver")
		if len(host) == 0 || len(guest) == 0 {
			return "a session is missing"
		}
		if s := host[0].State; s != "receipted" && s != "paid" {
			return fmt.Sprintf("host: %+v; driver: %+v", host[0], guest[0])
		}
		return ""
	})
}

// settledOnce holds the ledger against the session: it is there once, everything
// is final, the sum of all accounts is zero, and the exported files say the same.
func (d *day) settledOnce() {
	eventually(d.t, 90*time.Second, func() string {
		l, err := d.ledgerOf("evagg")
		if err != nil {
			return err.Error()
		}
		settled := 0
		for _, e := range l.Entries {
			if e.Kind == "settle" && e.Final {
				settled++
			}
		}
		if settled != 1 || l.CosignedSize != l.Size {
			return fmt.Sprintf("%d settlements, %d of %d entries final", settled, l.CosignedSize, l.Size)
		}
		if l.SumMicro != 0 || l.Equivocations != 0 {
			d.t.Errorf("sum %d, %d equivocations", l.SumMicro, l.Equivocations)
		}
		return ""
	})
	host, guest := d.sessions("home"), d.sessions("driver")
	if len(host) != 1 || len(guest) != 1 {
		d.t.Errorf("%d sessions at the host, %d at the driver, want one each", len(host), len(guest))
	}
	if host[0].Total != guest[0].Total || host[0].KWhIn != guest[0].KWhIn || host[0].Total == "EUR 0.00" {
		d.t.Errorf("the two sides do not agree: host %+v, driver %+v", host[0], guest[0])
	}
	d.t.Logf("host: %s %.3f kWh %s; driver: %s %.3f kWh %s", host[0].State, host[0].KWhIn, host[0].Total, guest[0].State, guest[0].KWhIn, guest[0].Total)
	cli(d.t, "ledger", "export", "--data", d.path("evagg"))
	if out := cli(d.t, "verify", filepath.Join(d.path("evagg"), "export")); !strings.Contains(out, "verified") {
		d.t.Errorf("verify: %s", out)
	}
}

// givePassword puts the wallbox's password where the gateway looks for it.
func (d *day) givePassword() {
	if err := os.WriteFile(filepath.Join(d.path("home"), "evse.password"), []byte(password+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
}
