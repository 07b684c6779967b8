package gateway

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gridveil/node/ask"
	"gridveil/node/config"
	"gridveil/node/wallet"
)

func TestWalletThatDiesAfterEveryFewStepsSignsAndPaysOnce(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	if testing.Short() {
		t.Skip("many restarts: 10 s")
	}
	s := newScene(t, sceneOptions{loadW: 500, pvW: 3_000, speed: slowSpeed})
	var steps, died atomic.Int64
	again := make(chan struct{}, 1)
	crash := func() error {
		if steps.Add(1)%5 == 0 {
			died.Add(1)
			poke(again)
			return errDied
		}
		return nil
	}
	s.plug(electric())
	s.pay(wallet.Options{Band: 20, WantMWh: 3_000_000})
	s.stopNode(s.guest)
	s.onWallet = func(w *wallet.Wallet) { w.CrashAfter(crash) }
	s.startWallet()
	for settled := false; !settled; {
		select {
		case <-again:
			release := s.clock.Hold() // the host's wait must not pass while a busy machine restarts
			s.stopNode(s.guest)
			s.startWallet()
			release()
		case <-time.After(patience):
			s.describe()
			t.Fatalf("not settled within %v of the last death", patience)
		case <-time.After(20 * time.Millisecond):
			rows := s.w().Sessions()
			settled = len(rows) == 1 && rows[0].State == "receipted"
		}
	}
	s.ends("paid")
	s.books(1)
	if died.Load() < 2 {
		t.Errorf("the wallet died %d times only", died.Load())
	}
	if left := s.w().Decks()[0].Left; left != ask.DeckSize-1 {
		t.Errorf("pseudonyms left: %d of %d after one session", left, ask.DeckSize)
	}
	for _, b := range s.market.Settled() {
		if b.Line.Form != 1 {
			t.Errorf("settled in form %d, not signed by both", b.Line.Form)
		}
	}
	t.Logf("%d steps, %d deaths", steps.Load(), died.Load())
}

func TestWalletPageShowsThePricesAndPays(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	listen := freeAddress(t)
	s := newScene(t, sceneOptions{loadW: 300, wallet: func(c *config.Config) { c.Wallet.Listen = listen }})
	s.plug(electric())
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get("http://" + listen + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %v\n%s", path, resp.StatusCode, err, b)
		}
		return string(b)
	}
	text := get("/pay?l=" + url.QueryEscape(s.link()))
	for _, want := range []string{"EUR 0.1800 per kWh", "EUR 0.3200 per kWh", "EUR 0.0150 per kWh", "11000 W", "Charge here"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
	if n := len(s.h().Sessions()); n != 0 {
		t.Errorf("looking at prices opened %d sessions", n)
	}
	p, err := s.w().Look(t.Context(), s.link(), wallet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{"l": {s.link()}, "seen": {hex.EncodeToString(p.Seen[:])}, "band": {"20"}, "want": {"0.5"}}
	resp, err := http.PostForm("http://"+listen+"/pay", form)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("pay: %d", resp.StatusCode)
	}
	s.ends("paid")
	s.books(1)
	form.Set("seen", strings.Repeat("ab", 32))
	resp, err = http.PostForm("http://"+listen+"/pay", form)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body) // the status says enough
	resp.Body.Close()
	if resp.StatusCode != http.StatusConflict || !strings.Contains(string(b), "prices have changed") {
		t.Errorf("other prices than seen: %d", resp.StatusCode)
	}
	req, _ := http.NewRequest("POST", "http://"+listen+"/pay", strings.NewReader(form.Encode()))
	req.Header.Set("Origin", "http://elsewhere.example")
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if resp, err = http.DefaultClient.Do(req); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another origin: %v %v", resp.StatusCode, err)
	}
	resp.Body.Close()
}

func TestDriverChecksTheLedgerAndSeesDisputes(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 300})
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 500_000})
	s.eventually("receipt", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
	x, _ := s.w().Session(id)
	ref, err := hex.DecodeString(x.Ref)
	if err != nil {
		t.Fatal(err)
	}
	s.market.Read(func() { s.market.Cases = []ask.OpenCase{{Ref: [32]byte(ref), Kind: 3}, {Ref: [32]byte{1}, Kind: 1}} })
	if err := s.w().LookAtLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	x, _ = s.w().Session(id)
	var booked, named bool
	for _, st := range x.Steps {
		booked = booked || strings.Contains(st.Text, "exactly what was signed")
		named = named || strings.Contains(st.Text, "asks to open it")
	}
	if !booked || !named {
		t.Errorf("entry checked: %v, dispute shown: %v\n%+v", booked, named, x.Steps)
	}
	if w := s.guest.env.Warn.Standing(s.clock.Now()); len(w) != 1 || w[0].Code != "session-disputed" {
		t.Errorf("warnings: %+v", w)
	}
	left, err := s.w().Left(s.clock.Now())
	if err != nil || len(left.Lines) < 4 {
		t.Errorf("journal: %+v, %v", left, err)
	}
}
