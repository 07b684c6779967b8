package web

import (
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser starts a real Chromium, or skips the test saying so.
func browser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on this machine: the pages are not looked at in a browser")
	}
	// Chromium writes into its profile while it is being stopped, so t.TempDir would complain.
	profile, err := os.MkdirTemp("", "gridveil-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(profile),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("disable-quic", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestPagesInABrowser opens every page wide and narrow, light and dark: no
// console error, nothing wider than the screen, live values arrive, charts are
// drawn. GRIDVEIL_SHOTS=dir keeps the pictures.
func TestPagesInABrowser(t *testing.T) {
	ctx := browser(t)
	srv := httptest.NewServer(server(t, fixture{}))
	defer srv.Close()
	defer srv.CloseClientConnections()
	complaints := listen(ctx)
	for _, v := range []struct {
		name   string
		width  int64
		scheme string
	}{{"wide-light", 1280, "light"}, {"phone-dark", 360, "dark"}, {"wide-dark", 1280, "dark"}, {"phone-light", 360, "light"}} {
		media := emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}})
		for i, path := range everyPage {
			if i > 1 && path != "/mesh" && path != "/privacy" && v.name != "wide-light" && v.name != "phone-dark" {
				continue // the other two combinations show the same rules
			}
			var overflow bool
			var shot []byte
			err := chromedp.Run(ctx, media, chromedp.EmulateViewport(v.width, 900), chromedp.Navigate(srv.URL+path), chromedp.WaitReady("main[data-ready]"), chromedp.WaitReady("body[data-live=on]"),
				chromedp.Evaluate(`document.documentElement.scrollWidth > innerWidth`, &overflow), chromedp.FullScreenshot(&shot, 100))
			if err != nil {
				t.Fatalf("%s %s: %v", v.name, path, err)
			}
			if overflow {
				t.Errorf("%s at %d px is wider than the screen", path, v.width)
			}
			keep(t, v.name+path, shot)
		}
	}
	var headline string
	if err := chromedp.Run(ctx, chromedp.Navigate(srv.URL), chromedp.WaitReady(".node.charging"),
		chromedp.Poll(`document.querySelector(".headline").textContent === "Live headline"`, nil), chromedp.Text(".headline", &headline)); err != nil || headline != "Live headline" {
		t.Errorf("live headline: %q %v", headline, err)
	}
	if err := chromedp.Run(ctx, chromedp.Navigate(srv.URL+"/energy"), chromedp.WaitReady("figure[data-drawn=yes] canvas")); err != nil {
		t.Errorf("chart: %v", err)
	}
	switched.Store("") // the page that the switch leads to has its details closed
	if err := chromedp.Run(ctx, chromedp.EmulateViewport(1280, 900), chromedp.Navigate(srv.URL+"/mesh?node=home-1"), chromedp.WaitReady("body[data-live=on]"), chromedp.Click("details:has(form) > summary"), chromedp.Click("form[method=post] button"),
		chromedp.WaitReady("details:has(form):not([open])")); err != nil || switched.Load() != "home-1false" {
		t.Errorf("the switch on the page: %q %v", switched.Load(), err)
	}
	asked.Store(BatteryOrder{Do: "release"})
	if err := chromedp.Run(ctx, chromedp.Navigate(srv.URL+"/privacy?home=home-1"), chromedp.WaitReady("figure[data-drawn=yes] canvas"), chromedp.Click("details:has(form) > summary"),
		chromedp.SetValue("#w", "1200"), chromedp.Click("button[value=discharge]"), chromedp.WaitReady("button[value=release]")); err != nil || asked.Load() != (BatteryOrder{"discharge", 1200, time.Hour}) {
		t.Errorf("the owner's command on the page: %+v %v", asked.Load(), err)
	}
	for _, c := range *complaints {
		t.Errorf("console: %s", c)
	}
}

// look opens a site of one page wide and narrow: live values arrive, and nothing is
// wider than the screen or complained of in the console.
func look(t *testing.T, ctx context.Context, url, name string) {
	t.Helper()
	complaints := listen(ctx)
	for screen, width := range map[string]int64{"wide": 1280, "phone": 360} {
		var overflow bool
		var shot []byte
		if err := chromedp.Run(ctx, chromedp.EmulateViewport(width, 900), chromedp.Navigate(url), chromedp.WaitReady("body[data-live=on]"),
			chromedp.Evaluate(`document.documentElement.scrollWidth > innerWidth`, &overflow), chromedp.FullScreenshot(&shot, 100)); err != nil {
			t.Fatal(err)
		}
		if overflow {
			t.Errorf("%s: wider than the screen", screen)
		}
		keep(t, name+"-"+screen, shot)
	}
	for _, c := range *complaints {
		t.Errorf("console: %s", c)
	}
}

// listen collects what the console complains of.
func listen(ctx context.Context) *[]string {
	var complaints []string
	chromedp.ListenTarget(ctx, func(ev any) {
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, e.ExceptionDetails.Error())
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError && !strings.Contains(e.Entry.URL, "/nope") {
				complaints = append(complaints, e.Entry.Text+" "+e.Entry.URL)
			}
		}
	})
	return &complaints
}

func keep(t *testing.T, name string, png []byte) {
	dir := os.Getenv("GRIDVEIL_SHOTS")
	if dir == "" {
		return
	}
	file := strings.NewReplacer("/", "_", "?", "_", "=", "_").Replace(name) + ".png"
	if err := os.WriteFile(filepath.Join(dir, file), png, 0o600); err != nil {
		t.Error(err)
	}
}
