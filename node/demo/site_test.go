package demo

import (
	"context"
	"fmt"
	"math"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"gridveil/mesh/member"
	"gridveil/node/web"
)

// reachWait bounds a wait in wall time: seconds on an idle machine, more on one
// that runs everybody's tests at once.
const reachWait = 150 * time.Second

// reach waits until a condition of the site holds. It does not end the test: a
// running scene must be stopped first.
func reach(t *testing.T, what string, ok func() bool) bool {
	t.Helper()
	for deadline := time.Now().Add(reachWait); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("%s: not within %v", what, reachWait)
			return false
		}
	}
	return true
}

// TestDashboardOfARunningNeighbourhood plays the beginning of a small scene's day
// and looks at it, as a person would.
func TestDashboardOfARunningNeighbourhood(t *testing.T) {
	s, err := Build(Options{Homes: 6, Speed: 1500, Seed: 7, Dir: t.TempDir() + "/scene"})
	if err != nil {
		t.Fatal(err)
	}
	err = s.run(t.Context(), func(ctx context.Context, st *Story) error {
		if err := s.settleIn(ctx, st); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		day := make(chan error, 1)
		go func() { day <- st.Day(ctx) }()
		defer func() { cancel(); <-day }()
		site := NewSite(s, st)
		if !reach(t, "a car has charged and the homes have bills", func() bool {
			e, _ := site.Energy(ctx, "home-1")
			rows := site.Sessions(ctx)
			return len(e.Times) > 200 && len(e.Bill) > 0 && len(rows) > 0 && !running(rows[0]) && rows[0].KWhIn > 0
		}) {
			return nil
		}
		srv := server(t, site)
		t.Run("it moves", func(t *testing.T) { testMoves(t, site) })
		t.Run("a session tells who learned what", func(t *testing.T) { testSession(t, site) })
		t.Run("a stopping substation is shown and nothing waits for it", func(t *testing.T) { testStopped(t, s, site) })
		t.Run("in a browser", func(t *testing.T) { testBrowser(t, srv.URL, site) })
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// testSession looks at the first car's session and at the ledger beside it.
func testSession(t *testing.T, site *Site) {
	ctx := context.Background()
	row := site.Sessions(ctx)[0]
	v, ok := site.Session(ctx, row.ID)
	if !ok || len(v.Steps) == 0 || len(v.Payees) == 0 || len(v.Intervals) == 0 || len(v.OCMF) == 0 || len(v.Parties) < 6 {
		t.Fatalf("session %s: %+v", row.ID, v)
	}
	if !strings.HasPrefix(v.Host, "Home ") || v.Ref == "" {
		t.Errorf("a demonstration's viewer sees host and name on the ledger: %q %q", v.Host, v.Ref)
	}
	l := site.Ledger(ctx, math.MaxInt64)
	if l.Size == 0 || len(l.Entries) == 0 || len(l.Cosigners) != len(seats) || l.SumMicro != 0 {
		t.Errorf("ledger: %d entries, %d cosigners, sum %d", l.Size, len(l.Cosigners), l.SumMicro)
	}
	if e, ok := site.Entry(ctx, 0); !ok || e.Kind != "genesis" {
		t.Errorf("entry 0: %+v", e.EntryRow)
	}
}

func server(t *testing.T, site web.Site) *httptest.Server {
	t.Helper()
	h, err := web.New(site, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return srv
}

func testMoves(t *testing.T, site *Site) {
	before := site.Live(context.Background())
	reach(t, "changing powers, clock and readings", func() bool {
		now := site.Live(context.Background())
		return now["now"] != before["now"] && now["energy-home-1-load"] != before["energy-home-1-load"] && now["fig-homes"] == "6"
	})
	o := site.Overview(context.Background())
	for _, n := range o.Nodes {
		if p, ok := site.Party(context.Background(), n.ID); !ok || len(p.Never) == 0 || p.Is == "" {
			t.Errorf("%s: its page does not say what it cannot see", n.ID)
		}
	}
	left, ok := site.Left(context.Background(), "home-1")
	if !ok || left.Messages == 0 || left.Bytes == 0 {
		t.Errorf("journal of home 1: %+v", left)
	}
}

// TestNodesOfTheMapKeepApart places scenes of every size.
func TestNodesOfTheMapKeepApart(t *testing.T) {
	for _, homes := range []int{6, 7, 25, 40, 100, 200} {
		s := &Scene{}
		for i := range homes {
			s.Members = append(s.Members, &Member{Name: fmt.Sprintf("home-%d", i+1), Role: member.RoleGateway, Zone: zoneOf(i, homes)})
		}
		for i := range drivers {
			s.Members = append(s.Members, &Member{Name: fmt.Sprintf("driver-%d", i+1), Role: member.RoleWallet})
		}
		for _, m := range []*Member{{Name: "utility-a", Role: member.RoleUtility}, {Name: "utility-b", Role: member.RoleUtility}, {Name: "headend", Role: member.RoleHeadend}, {Name: "evagg", Role: member.RoleAggregator},
			{Name: "watchdog", Role: member.RoleVerifier}, {Name: "second", Role: member.RoleVerifier}, {Name: "third", Role: member.RoleVerifier}} {
			s.Members = append(s.Members, m)
		}
		p := s.plot()
		apart := func(name string, size web.Place, place func(spot) web.Place, least float64) {
			for a, x := range p.at {
				if at := place(x); at.X < 10 || at.Y < 10 || at.X > size.X-10 || at.Y > size.Y-10 {
					t.Errorf("%d homes, %s map: %s lies at %.0f,%.0f", homes, name, a, at.X, at.Y)
				}
				for b, y := range p.at {
					if d := math.Hypot(place(x).X-place(y).X, place(x).Y-place(y).Y); a < b && d < least {
						t.Errorf("%d homes, %s map: %s and %s are %.0f px apart", homes, name, a, b, d)
					}
				}
			}
		}
		apart("wide", web.Place{X: web.WideWidth, Y: web.WideHeight}, func(s spot) web.Place { return s.wide }, 22)
		apart("tall", web.Place{X: web.TallWidth, Y: p.tall}, func(s spot) web.Place { return s.tall }, 20)
	}
}

// testStopped stops a substation while its lock is held, as Stop holds it.
func testStopped(t *testing.T, s *Scene, site *Site) {
	m := s.Get("ssn-oak")
	m.mu.Lock()
	time.Sleep(2 * lookEvery)
	began := time.Now()
	o := site.Overview(context.Background())
	took := time.Since(began)
	m.mu.Unlock()
	if took > time.Second {
		t.Errorf("the overview waited %v for a node that is stopping", took)
	}
	for _, n := range o.Nodes {
		if n.ID == "ssn-oak" && n.State != "offline" {
			t.Errorf("a stopping substation is shown as %s", n.State)
		}
	}
	reach(t, "the substation is shown as back", func() bool {
		return strings.Contains(site.Live(context.Background())["events"], "online")
	})
}

// browser starts a real Chromium, or skips the test saying so.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on this machine: the pages are not looked at in a browser")
	}
	profile, err := os.MkdirTemp("", "gridveil-browser-") // Chromium writes into it while it is stopped
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(profile),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 120*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func testBrowser(t *testing.T, url string, site *Site) {
	ctx := browser(t)
	complaints := listen(ctx)
	var before, after, party string
	err := chromedp.Run(ctx, chromedp.EmulateViewport(1280, 900), chromedp.Navigate(url), chromedp.WaitReady("body[data-live=on]"),
		chromedp.Text(".time time", &before), chromedp.Poll(fmt.Sprintf(`document.querySelector(".time time").textContent !== %s`, strconv.Quote(before)), nil), chromedp.Text(".time time", &after),
		chromedp.Click(`svg.wide a[href="/party/headend"]`, chromedp.ByQuery), chromedp.WaitReady("main[data-ready]"), chromedp.Text("main", &party))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(party, "What it cannot see") || !strings.Contains(party, "register") {
		t.Errorf("page of the head-end, opened by a click: %q", party)
	}
	err = chromedp.Run(ctx, chromedp.Navigate(url+"/energy?home=home-2"), chromedp.WaitReady("figure[data-drawn=yes] canvas"))
	if err != nil {
		t.Fatalf("chart: %v", err)
	}
	if dir := os.Getenv("GRIDVEIL_SHOTS"); dir != "" {
		shoot(t, ctx, url, dir, "/sessions/"+site.Sessions(ctx)[0].ID)
	}
	for _, c := range *complaints {
		t.Errorf("console: %s", c)
	}
}

func listen(ctx context.Context) *[]string {
	var out []string
	chromedp.ListenTarget(ctx, func(ev any) {
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			out = append(out, e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError {
				out = append(out, e.Entry.Text+" "+e.Entry.URL)
			}
		}
	})
	return &out
}

// shoot keeps pictures of every page in dir, for people to look at.
func shoot(t *testing.T, ctx context.Context, url, dir, session string) {
	t.Helper()
	for _, v := range []struct {
		name   string
		width  int64
		scheme string
	}{{"wide-light", 1280, "light"}, {"phone-dark", 360, "dark"}, {"wide-dark", 1280, "dark"}, {"phone-light", 360, "light"}} {
		media := emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}})
		for _, path := range []string{"/", "/energy?home=home-1", "/sessions", session, "/ledger", "/ledger/0", "/alarms", "/privacy?home=home-1", "/party/ssn-elm", "/party/home-2"} {
			var shot []byte
			var overflow bool
			err := chromedp.Run(ctx, media, chromedp.EmulateViewport(v.width, 900), chromedp.Navigate(url+path), chromedp.WaitReady("main[data-ready]"), chromedp.WaitReady("body[data-live=on]"),
				chromedp.Evaluate(`document.documentElement.scrollWidth > innerWidth`, &overflow), chromedp.FullScreenshot(&shot, 100))
			if err != nil {
				t.Fatalf("%s %s: %v", v.name, path, err)
			}
			if overflow {
				t.Errorf("%s at %d px is wider than the screen", path, v.width)
			}
			file := v.name + strings.NewReplacer("/", "_", "?", "_", "=", "_").Replace(path) + ".png"
			if err := os.WriteFile(filepath.Join(dir, file), shot, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
}
