package sunspec

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/simonvetter/modbus"

	"gridveil/battery"
)

// registers is a device's memory from an address on.
type registers struct {
	base int
	all  []uint16
}

var errNothing = modbus.ErrIllegalDataAddress

func (r registers) read(at, n uint16) ([]uint16, error) {
	from := int(at) - r.base
	if from < 0 || from+int(n) > len(r.all) {
		return nil, errNothing
	}
	return r.all[from : from+int(n)], nil
}

// device is a map with the given models, each with its head.
func device(models ...[]uint16) []uint16 {
	all := []uint16{'S'<<8 | 'u', 'n'<<8 | 'S'}
	for _, m := range models {
		all = append(all, m...)
	}
	return append(all, 0xFFFF, 0)
}

func model(id uint16, n int, set map[int]uint16) []uint16 {
	p := make([]uint16, n)
	for i := range p {
		p[i] = 0xFFFF
	}
	for i, v := range set {
		p[i] = v
	}
	return append([]uint16{id, uint16(n)}, p...)
}

func sf(n int16) uint16 { return uint16(n) }

func storage(set map[int]uint16) []uint16 {
	all := map[int]uint16{0: 3000, 16: 0, 3: 0, 6: 505, 20: sf(-1), 10: 0, 11: 0, 12: 0, 13: 0, 23: sf(-2)}
	for k, v := range set {
		all[k] = v
	}
	return model(124, 24, all)
}

func TestMapIsFoundWhereItMayBegin(t *testing.T) {
	all := device(model(1, 66, nil), storage(nil))
	for _, tc := range []struct {
		name string
		r    registers
		want error
	}{
		{"at 40000", registers{40000, all}, nil}, {"at 50000", registers{50000, all}, nil}, {"at 0", registers{0, all}, nil},
		{"elsewhere", registers{1, all}, ErrNoMap}, {"other words at 40000", registers{40000, append([]uint16{1, 2}, all...)}, ErrNoMap},
		{"no model 1", registers{40000, device(storage(nil))}, ErrMap}, {"a model of no registers", registers{40000, device(model(1, 66, nil), []uint16{5, 0})}, ErrMap},
		{"a model behind the last register", registers{40000, device(model(1, 66, nil), []uint16{5, 65535})}, ErrMap},
		{"an end that never comes", registers{40000, all[:len(all)-2]}, errNothing},
	} {
		models, err := discover(tc.r.read)
		if !errors.Is(err, tc.want) || tc.want == nil && (err != nil || models[124].n != 24) {
			t.Errorf("%s: got %v, %v", tc.name, models, err)
		}
	}
}

// look decodes a device that has these models.
func look(t *testing.T, models ...[]uint16) state {
	t.Helper()
	r := registers{40000, device(append([][]uint16{model(1, 66, nil)}, models...)...)}
	found, err := discover(r.read)
	if err != nil {
		t.Fatal(err)
	}
	get := func(id uint16) points {
		b, ok := found[id]
		if !ok {
			return nil
		}
		p, err := r.read(b.at, b.n)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	return whole(get)
}

// whole is the state of a device whose models get gives.
func whole(get func(id uint16) points) state {
	return state{common: get(1), storage: get(124), ratings: get(702), control: get(704), der: get(713), dc: get(714), remote: get(715), battery: get(802), link: get(LinkModel)}
}

func TestChargeComesFromTheFinestModel(t *testing.T) {
	der := model(713, 7, map[int]uint16{0: 512, 2: 5043, 4: 0, 5: 1, 6: sf(-2)})
	draft := model(713, 6, map[int]uint16{0: 512, 4: 1, 5: 1})
	bank := model(802, 62, map[int]uint16{1: 500, 51: 1, 9: 51, 54: 0, 20: 3, 45: 1400, 14: 4, 61: 0})
	for _, tc := range []struct {
		name     string
		s        state
		charge   float64
		capacity battery.WattHours
		power    battery.Watts
		measures bool
	}{
		{"124 alone", look(t, storage(nil)), .505, 0, 0, false},
		{"713", look(t, storage(nil), der), .5043, 5120, 0, false},
		{"a draft of 713 without a scale of its charge", look(t, storage(nil), draft), .505, 5120, 0, false},
		{"802 that charges and prints it positive", look(t, storage(nil), bank), .505, 5000, -1400, true},
	} {
		r, err := tc.s.reading()
		g, gerr := tc.s.rating()
		if err != nil || gerr != nil || math.Abs(r.Charge-tc.charge) > 1e-9 || g.Capacity != tc.capacity || r.Power != tc.power || r.HasPower != tc.measures {
			t.Errorf("%s: got %+v %v, %+v %v", tc.name, r, err, g, gerr)
		}
	}
}

func TestForeignValuesAreRefused(t *testing.T) {
	bank := func(set map[int]uint16) []uint16 { return model(802, 62, set) }
	for _, tc := range []struct {
		name string
		s    state
		want error
	}{
		{"no limit of power", look(t, storage(map[int]uint16{0: 0xFFFF})), ErrMissing}, {"a limit of 0 W", look(t, storage(map[int]uint16{0: 0})), ErrAbsurd},
		{"a limit of 3 TW", look(t, storage(map[int]uint16{16: 9})), ErrAbsurd}, {"a scale factor of 77", look(t, storage(map[int]uint16{16: 77})), ErrMissing},
		{"no scale of the rates", look(t, storage(map[int]uint16{23: 0x8000})), ErrMissing}, {"no charge", look(t, storage(map[int]uint16{6: 0xFFFF})), ErrMissing},
		{"charged to 505 %", look(t, storage(map[int]uint16{20: 0})), ErrAbsurd}, {"a capacity of 12 Wh", look(t, storage(nil), bank(map[int]uint16{1: 12, 51: 0, 20: 3})), ErrAbsurd},
		{"a megawatt", look(t, storage(nil), bank(map[int]uint16{45: 1000, 61: 3, 20: 3})), ErrAbsurd}, {"fault", look(t, storage(nil), bank(map[int]uint16{20: 99})), ErrFault},
		{"disconnected", look(t, storage(nil), bank(map[int]uint16{20: 1})), ErrFault}, {"error of 713", look(t, storage(nil), model(713, 7, map[int]uint16{4: 2})), ErrFault},
	} {
		_, err := tc.s.rating()
		if _, rerr := tc.s.reading(); err == nil {
			err = rerr
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestRatesAskForExactlyOnePower(t *testing.T) {
	s := look(t, storage(nil))
	for _, tc := range []struct {
		w       battery.Watts
		out, in int16
	}{{0, 0, 0}, {1500, 5000, -5000}, {-3000, -10000, 10000}, {99999, 10000, -10000}, {battery.Watts(math.Inf(-1)), -10000, 10000}} {
		out, in, err := s.rates(tc.w)
		if err != nil || int16(out) != tc.out || int16(in) != tc.in {
			t.Errorf("%v W: got %d, %d, %v", tc.w, int16(out), int16(in), err)
		}
	}
	if _, _, err := s.rates(battery.Watts(math.NaN())); !errors.Is(err, ErrAbsurd) {
		t.Errorf("NaN: %v", err)
	}
	fine := look(t, storage(map[int]uint16{23: sf(-9)}))
	if _, _, err := fine.rates(3000); !errors.Is(err, ErrAbsurd) {
		t.Errorf("a unit too fine for 16 bits: %v", err)
	}
}

func TestAddressIsChecked(t *testing.T) {
	for _, a := range []string{"", "192.0.2.7", "192.0.2.7:502", "tcp://192.0.2.7", "udp://192.0.2.7:502", "tcp://h:1/x", "tcp://\x00"} {
		if _, err := Dial(a); err == nil || !strings.Contains(err.Error(), "want tcp://host:port") {
			t.Errorf("%q: %v", a, err)
		}
	}
	if _, err := Dial("tcp://192.0.2.7:502"); err != nil {
		t.Error(err)
	}
}

// Models of a device that is controlled by 704.
func ratings(set map[int]uint16) []uint16 {
	return model(702, 50, with(map[int]uint16{24: 500, 8: 300, 9: 400, 43: 1}, set))
}

func control(set map[int]uint16) []uint16 {
	return model(704, 65, with(map[int]uint16{20: 0, 21: 1, 22: 0, 23: 0, 26: 0, 28: 0, 29: 0, 30: 0, 31: 0, 32: 0, 53: 0, 54: sf(-1)}, set))
}

func port(set map[int]uint16) []uint16 {
	return model(714, 43, with(map[int]uint16{2: 1, 15: 1, 18: 1, 30: 0xFFFF - 119}, set))
}

func with(all, set map[int]uint16) map[int]uint16 {
	for k, v := range set {
		all[k] = v
	}
	return all
}

var charge = model(713, 7, map[int]uint16{0: 512, 2: 5043, 4: 0, 5: 1, 6: sf(-2)})

func TestModel704SetsWattsOrPercent(t *testing.T) {
	for _, tc := range []struct {
		name  string
		s     state
		w     battery.Watts
		value int32
		watts bool
	}{
		{"watts", look(t, ratings(nil), control(nil), charge), -1234, -1234, true},
		{"tens of watts", look(t, ratings(nil), control(map[int]uint16{53: 1}), charge), 1234, 123, true},
		{"percent of what is set", look(t, ratings(nil), control(map[int]uint16{22: 0x8000}), charge), -1250, -250, false},
		{"percent of what was built, where the scale of watts is none", look(t, ratings(map[int]uint16{24: 0xFFFF, 0: 250}), control(map[int]uint16{53: 99}), charge), 1250, 500, false},
		{"more than all", look(t, ratings(nil), control(map[int]uint16{22: 0x8000}), charge), 99999, 1000, false},
	} {
		value, watts, err := tc.s.setPoint(tc.w)
		if err != nil || value != tc.value || watts != tc.watts {
			t.Errorf("%s: got %d %t %v, want %d %t", tc.name, value, watts, err, tc.value, tc.watts)
		}
	}
	s := look(t, ratings(nil), control(nil), charge, port(nil))
	g, err := s.rating()
	r, rerr := s.reading()
	if err != nil || rerr != nil || g.MaxCharge != 3000 || g.MaxDischarge != 4000 || g.Capacity != 5120 || !g.Reverts || !r.HasPower || r.Power != -1200 || math.Abs(r.Charge-.5043) > 1e-9 {
		t.Errorf("got %+v %v, %+v %v", g, err, r, rerr)
	}
	if r, err := look(t, ratings(nil), control(nil), charge, model(715, 7, map[int]uint16{0: 1})).reading(); err != nil || !r.Local {
		t.Errorf("under local control: %+v %v", r, err)
	}
	if g, err := look(t, ratings(nil), control(map[int]uint16{29: 0xFFFF, 30: 0xFFFF}), charge).rating(); err != nil || g.Reverts {
		t.Errorf("without a timer: %+v %v", g, err)
	}
	both := look(t, storage(nil), ratings(nil), control(nil), charge)
	if g, err := both.rating(); err != nil || !both.byStorage() || g.MaxDischarge != 3000 {
		t.Errorf("with 124 too: %+v %v", g, err)
	}
}

func TestDevicesThatModel704CannotControlAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    state
		want error
	}{
		{"a draft of 704", look(t, ratings(nil), model(704, 69, map[int]uint16{20: 0}), charge), ErrDraft},
		{"a roof on the same inverter", look(t, ratings(nil), control(nil), charge, port(map[int]uint16{18: 0})), ErrRoof},
		{"no enable", look(t, ratings(nil), control(map[int]uint16{20: 0xFFFF}), charge), ErrMissing},
		{"no set point", look(t, ratings(nil), control(map[int]uint16{22: 0x8000, 26: 0x8000}), charge), ErrMissing},
		{"percent of nothing", look(t, ratings(map[int]uint16{24: 0xFFFF}), control(map[int]uint16{22: 0x8000}), charge), ErrMissing},
		{"no ratings", look(t, control(nil), charge), ErrMissing},
		{"ratings without a scale", look(t, ratings(map[int]uint16{43: 0x8000}), control(nil), charge), ErrMissing},
		{"a rating of 40 W", look(t, ratings(map[int]uint16{9: 4}), control(nil), charge), ErrAbsurd},
		{"no charge", look(t, ratings(nil), control(nil)), ErrMissing},
		{"300 kW from 4", look(t, ratings(nil), control(nil), charge, port(map[int]uint16{30: 30000})), ErrAbsurd},
	} {
		_, err := tc.s.rating()
		if _, rerr := tc.s.reading(); err == nil {
			err = rerr
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
	s := look(t, ratings(nil), control(nil), charge)
	if _, _, err := s.setPoint(battery.Watts(math.NaN())); !errors.Is(err, ErrAbsurd) {
		t.Errorf("NaN: %v", err)
	}
	if _, _, err := look(t, ratings(nil), control(map[int]uint16{53: sf(-9)}), charge).setPoint(3000); !errors.Is(err, ErrAbsurd) {
		t.Errorf("a unit too fine for 32 bits: %v", err)
	}
}

// FuzzDevice takes any bytes as a device's registers: what comes out is an error
// or values that a home battery can have.
func FuzzDevice(f *testing.F) {
	seed := func(all []uint16) {
		var b []byte
		for _, v := range all {
			b = binary.BigEndian.AppendUint16(b, v)
		}
		f.Add(b)
	}
	seed(device(model(1, 66, nil), storage(nil), model(713, 7, map[int]uint16{0: 512, 2: 5043, 4: 0, 5: 1, 6: sf(-2)})))
	seed(device(model(1, 66, nil), storage(nil), model(802, 62, map[int]uint16{1: 500, 51: 1, 20: 3, 45: 1400, 61: 0}), append([]uint16{LinkModel, LinkSize}, make([]uint16, LinkSize)...)))
	seed(device(model(1, 66, nil), ratings(nil), control(nil), charge, port(nil), model(715, 7, map[int]uint16{0: 0})))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := registers{base: 40000}
		for ; len(b) >= 2 && len(r.all) < 2000; b = b[2:] {
			r.all = append(r.all, binary.BigEndian.Uint16(b))
		}
		found, err := discover(r.read)
		if err != nil {
			return
		}
		get := func(id uint16) points {
			p, err := r.read(found[id].at, min(found[id].n, longest))
			if err != nil {
				return nil
			}
			return p
		}
		s := whole(get)
		if g, err := s.rating(); err == nil && (!(g.MaxCharge >= leastPower && g.MaxCharge <= mostPower) || !(g.Capacity == 0 || g.Capacity >= leastCapacity && g.Capacity <= mostWattHr)) {
			t.Errorf("rating %+v", g)
		}
		v, err := s.reading()
		if err == nil && (!(v.Charge >= 0 && v.Charge <= 1) || math.IsNaN(float64(v.Power)) || math.IsInf(float64(v.Power), 0) || v.Flown.In < 0 || v.Flown.Out < 0) {
			t.Errorf("reading %+v", v)
		}
		if v, watts, err := s.setPoint(1500); err == nil && (v < 0 || !watts && v > math.MaxInt16) {
			t.Errorf("set point %d", v)
		}
		if out, in, err := s.rates(1500); err == nil && int16(out) != -int16(in) {
			t.Errorf("rates %d, %d", int16(out), int16(in))
		}
	})
}
