package sim

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/simonvetter/modbus"

	"gridveil/battery"
	"gridveil/node/sunspec"
)

// base is where the device's map begins.
const base = 40000

// Scale factors of the device.
const (
	rateSF   = -2 // 0.01 %, percentUnit
	chargeSF = -2
	wattSF   = 1 // 10 W, so that 60 kW fit 16 bits
	energySF = 1 // 10 Wh
)

const percentUnit = .01

const (
	absent       = 0xFFFF
	absentSigned = 0x8000
)

// handler answers requests for holding registers.
type handler struct {
	d   *Device
	ctx context.Context
}

func (handler) HandleCoils(*modbus.CoilsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

func (handler) HandleDiscreteInputs(*modbus.DiscreteInputsRequest) ([]bool, error) {
	return nil, modbus.ErrIllegalFunction
}

func (handler) HandleInputRegisters(*modbus.InputRegistersRequest) ([]uint16, error) {
	return nil, modbus.ErrIllegalFunction
}

func (h handler) HandleHoldingRegisters(r *modbus.HoldingRegistersRequest) ([]uint16, error) {
	d := h.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault == Silent {
		healed := d.healed
		d.mu.Unlock()
		select {
		case <-healed:
		case <-h.ctx.Done():
		}
		d.mu.Lock()
	}
	if d.fault == Refusing {
		return nil, modbus.ErrServerDeviceFailure
	}
	if r.UnitId != d.cfg.Unit {
		return nil, modbus.ErrGWTargetFailedToRespond
	}
	d.advance()
	all, at := d.layout()
	from := int(r.Addr) - base
	if from < 0 || from+int(r.Quantity) > len(all) {
		return nil, modbus.ErrIllegalDataAddress
	}
	if r.IsWrite {
		return r.Args, d.write(from, r.Args, at)
	}
	return all[from : from+int(r.Quantity)], nil
}

// layout is the whole map as it stands now, and where the models' points are.
func (d *Device) layout() (all []uint16, at map[uint16]int) {
	all, at = []uint16{'S'<<8 | 'u', 'n'<<8 | 'S'}, map[uint16]int{}
	add := func(id uint16, points []uint16) {
		all = append(all, id, uint16(len(points)))
		at[id] = len(all)
		all = append(all, points...)
	}
	add(1, d.common())
	for _, m := range []struct {
		id     uint16
		points func() []uint16
	}{{124, d.storage}, {702, d.ratings}, {704, d.control}, {713, d.der}, {714, d.ports}, {715, d.remote}, {802, d.bank}, {sunspec.LinkModel, d.link}} {
		if slices.Contains(d.cfg.Models, m.id) {
			add(m.id, m.points())
		}
	}
	return append(all, absent, 0), at
}

// write takes registers of models 124 and 704 and the clock of the link.
func (d *Device) write(from int, v []uint16, at map[uint16]int) error {
	if a, ok := at[124]; ok {
		switch {
		case from == a+3 && len(v) == 1:
			d.mode = v[0]
			d.command()
			return nil
		case from >= a+10 && from+len(v) <= a+14:
			copy(d.rates[from-a-10:], v)
			d.command()
			return nil
		}
	}
	if a, ok := at[704]; ok && from >= a+activeAt && from+len(v) <= a+activeAt+len(d.active) {
		return d.writeActive(from-a-activeAt, v)
	}
	if a, ok := at[sunspec.LinkModel]; ok && d.cfg.Now == nil && from == a+sunspec.LinkTimeAt {
		if t, ok := sunspec.LinkTime(v); ok {
			d.pass(t)
			return nil
		}
	}
	return modbus.ErrIllegalDataAddress
}

func (d *Device) common() []uint16 {
	p := make([]uint16, 66)
	text(p[0:16], "gridveil")
	text(p[16:32], "simulated battery")
	text(p[40:48], "1")
	text(p[48:64], "SIM1")
	p[64] = uint16(d.cfg.Unit)
	return p
}

func (d *Device) storage() []uint16 {
	p := fill(24, 8)
	p[0], p[16] = scaled(float64(d.cfg.Spec.MaxCharge), wattSF), sf(wattSF)
	p[1], p[2], p[17] = 100, 100, 0
	p[3] = d.mode
	p[6], p[20] = d.chargeRegister(), sf(chargeSF)
	p[9] = d.status()
	copy(p[10:14], d.rates[:])
	p[15], p[23] = 1, sf(rateSF)
	d.spoil(p, 16, 20, 23)
	return p
}

func (d *Device) der() []uint16 {
	p := fill(7, 2)
	p[0], p[1] = scaled(float64(d.cfg.Spec.Capacity), energySF), scaled(float64(d.store.E), energySF)
	p[2], p[3], p[4] = d.chargeRegister(), 10000, 0
	p[5], p[6] = sf(energySF), sf(chargeSF)
	if d.fault == OutOfOrder {
		p[4] = 2
	}
	d.spoil(p, 5, 6)
	return p
}

func (d *Device) bank() []uint16 {
	p := fill(62, 12)
	s := d.cfg.Spec
	p[1], p[51] = scaled(float64(s.Capacity), energySF), sf(energySF)
	p[2], p[3], p[52] = scaled(float64(s.MaxCharge), wattSF), scaled(float64(s.MaxDischarge), wattSF), sf(wattSF)
	p[9], p[54] = d.chargeRegister(), sf(chargeSF)
	p[14], p[15], p[20] = d.status(), 0, 3
	p[42], p[47] = absentSigned, absentSigned
	p[45], p[61] = uint16(int16(math.Round(float64(d.inside())/10))), sf(wattSF)
	switch d.fault {
	case OutOfOrder:
		p[20] = 99
	case BadPower:
		p[45] = 32767
	case LocalOnly:
		p[15] = 1
	}
	d.spoil(p, 51, 52, 54, 61)
	return p
}

func (d *Device) link() []uint16 {
	f := sunspec.Flown{In: int64(d.flown[0]), Out: int64(d.flown[1]), Stored: d.store.E}
	now := d.now
	if now.IsZero() {
		now = time.UnixMilli(0)
	}
	return sunspec.EncodeLink(d.cfg.Now == nil, now, f)
}

// inside is the power on the battery's side of the inverter.
func (d *Device) inside() battery.Watts {
	if d.power >= 0 {
		return d.power / battery.Watts(d.cfg.Spec.EtaDischarge)
	}
	return d.power * battery.Watts(d.cfg.Spec.EtaCharge)
}

func (d *Device) chargeRegister() uint16 {
	if d.fault == BadCharge {
		return 65000
	}
	return scaled(float64(d.store.E/d.cfg.Spec.Capacity)*100, chargeSF)
}

func (d *Device) status() uint16 {
	switch {
	case d.power > 0:
		return 3
	case d.power < 0:
		return 4
	case d.store.E <= d.cfg.Spec.Floor():
		return 2
	case d.store.E >= d.cfg.Spec.Ceiling():
		return 5
	}
	return 6
}

// spoil breaks scale factors.
func (d *Device) spoil(p []uint16, at ...int) {
	if d.fault != BadScale {
		return
	}
	for i, a := range at {
		p[a] = []uint16{200, absentSigned, 77}[i%3]
	}
}

// fill makes the n registers of a model that implements nothing yet; the last
// ones are its scale factors.
func fill(n, scales int) []uint16 {
	p := make([]uint16, n)
	for i := range p {
		p[i] = absent
		if i >= n-scales {
			p[i] = absentSigned
		}
	}
	return p
}

func scaled(v float64, sf int) uint16 {
	return uint16(min(max(math.Round(v/math.Pow10(sf)), 0), 65534))
}

func sf(n int16) uint16 { return uint16(n) }

func text(p []uint16, s string) {
	for i := range p {
		if 2*i < len(s) {
			p[i] = uint16(s[2*i]) << 8
		}
		if 2*i+1 < len(s) {
			p[i] |= uint16(s[2*i+1])
		}
	}
}
