package sim

import (
	"errors"
	"math"
	"testing"
	"time"

	"gridveil/battery"
	"gridveil/node/sunspec"
)

// TestADeviceOfModel704IsDriven: its power follows WSet, both ways, and what it was
// told ends with its own timer.
func TestADeviceOfModel704IsDriven(t *testing.T) {
	d, b := run(t, Config{Spec: slow(), Stored: 2500, Models: Active})
	follow(t, b, 0)
	g, ok := b.Rating()
	if !ok || g.MaxCharge != 3000 || g.MaxDischarge != 3000 || g.Capacity != 5000 || !g.Simulated || !g.Reverts {
		t.Fatalf("rating %+v", g)
	}
	if err := b.Set(-2000, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		after time.Duration
		want  battery.Watts
	}{{2 * time.Second, 0}, {3 * time.Second, -500}, {8 * time.Second, -2000}, {11 * time.Second, -1500}, {14 * time.Second, 0}} {
		r := follow(t, b, tc.after)
		if got, _ := d.State(); math.Abs(float64(got-tc.want)) > 1 || !r.HasPower || math.Abs(float64(r.Power/.95-got)) > 20 {
			t.Errorf("after %v: %.0f W and told %.0f W inside, want %.0f W", tc.after, got, r.Power, tc.want)
		}
	}
	if g, _ := b.Rating(); !g.Reverts {
		t.Error("its timer ran and is not believed")
	}
	if err := b.Set(99999, time.Minute); err != nil {
		t.Fatal(err)
	}
	follow(t, b, 40*time.Second)
	if w, _ := d.State(); w != 3000 {
		t.Errorf("%.0f W, want all that it has", w)
	}
}

func TestFaultsOfADeviceOfModel704AreSeen(t *testing.T) {
	d, b := run(t, Config{Spec: battery.Reference(5000, 3000), Stored: 2500, Models: Active})
	follow(t, b, 0)
	for _, tc := range []struct {
		fault Fault
		want  error
	}{{BadScale, sunspec.ErrMissing}, {BadCharge, sunspec.ErrAbsurd}, {BadPower, sunspec.ErrAbsurd}, {OutOfOrder, sunspec.ErrFault}, {WithRoof, sunspec.ErrRoof}} {
		d.Inject(tc.fault)
		if _, err := b.Read(); !errors.Is(err, tc.want) {
			t.Errorf("fault %d: got %v, want %v", tc.fault, err, tc.want)
		}
		if err := b.Set(500, time.Minute); !errors.Is(err, sunspec.ErrUnread) {
			t.Errorf("fault %d: commanded blindly: %v", tc.fault, err)
		}
		d.Inject(Sound)
		if _, err := b.Read(); err != nil {
			t.Errorf("after fault %d: %v", tc.fault, err)
		}
	}
	d.Inject(LocalOnly)
	if r, err := b.Read(); err != nil || !r.Local {
		t.Errorf("local control: %+v %v", r, err)
	}
	d.Inject(Clinging)
	if err := b.Set(-700, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	follow(t, b, 30*time.Second)
	if w, _ := d.State(); w != -700 {
		t.Fatalf("%.0f W: it was to cling", w)
	}
	if g, _ := b.Rating(); g.Reverts {
		t.Error("a timer that ended nothing is believed")
	}
}

// TestARefusedWriteChangesNothing: values that model 704 does not have are refused.
func TestARefusedWriteChangesNothing(t *testing.T) {
	d, b := run(t, Config{Spec: battery.Reference(5000, 3000), Stored: 2500, Models: Active})
	follow(t, b, 0)
	if err := b.Set(800, time.Minute); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	before := d.active
	for from, v := range map[int]uint16{activeOn: 2, activeMode: 7} {
		if err := d.writeActive(from, []uint16{v}); err == nil || d.active != before {
			t.Errorf("register %d took %d: %v", from, v, err)
		}
	}
	d.mu.Unlock()
	follow(t, b, 5*time.Second)
	if w, _ := d.State(); w != 800 {
		t.Errorf("%.0f W, want 800", w)
	}
}
