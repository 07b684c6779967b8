package sim

import (
	"math"
	"time"

	"github.com/simonvetter/modbus"

	"gridveil/battery"
)

// active are the writable registers of model 704 for the active power, WSetEna to
// WSetRvrtTms, as written.
type active [11]uint16

// Offsets in active, and where it begins behind the model's head.
const (
	activeAt = 20

	activeOn, activeMode       = 0, 1
	activeWatts, activePercent = 2, 6
	activeRevert               = 9
)

// writeActive takes registers of model 704.
func (d *Device) writeActive(from int, v []uint16) error {
	next := d.active
	copy(next[from:], v)
	if next[activeOn] > 1 || next[activeMode] > 1 {
		return modbus.ErrIllegalDataValue
	}
	d.active = next
	if d.active[activeOn] == 0 {
		d.drop()
		return nil
	}
	w := battery.Watts(int32(uint32(d.active[activeWatts])<<16 | uint32(d.active[activeWatts+1])))
	if d.active[activeMode] == 0 {
		w = battery.Watts(int16(d.active[activePercent])) * percentUnit / 100 * d.cfg.Spec.MaxDischarge
	}
	d.obey(w, time.Duration(uint32(d.active[activeRevert])<<16|uint32(d.active[activeRevert+1]))*time.Second)
	return nil
}

func (d *Device) ratings() []uint16 {
	p := fill(50, 7)
	p[0], p[24] = scaled(float64(d.cfg.Spec.MaxDischarge), wattSF), scaled(float64(d.cfg.Spec.MaxDischarge), wattSF)
	p[8], p[9] = scaled(float64(d.cfg.Spec.MaxCharge), wattSF), scaled(float64(d.cfg.Spec.MaxDischarge), wattSF)
	p[43] = sf(wattSF)
	d.spoil(p, 43)
	return p
}

func (d *Device) control() []uint16 {
	p := fill(65, 0)
	for i := 51; i < 57; i++ {
		p[i] = absentSigned
	}
	copy(p[activeAt:], d.active[:])
	left := uint32(0)
	if !d.reverts.IsZero() {
		left = uint32(math.Ceil(max(d.reverts.Sub(d.now), 0).Seconds()))
	}
	p[31], p[32] = uint16(left>>16), uint16(left)
	p[53], p[54] = 0, sf(rateSF)
	d.spoil(p, 53, 54)
	return p
}

func (d *Device) ports() []uint16 {
	const port = 18
	p := fill(port+25, 0)
	p[0], p[1], p[2] = 0, 0, 1
	p[3], p[4] = absentSigned, uint16(int16(math.Round(float64(d.inside())/10)))
	for i := 13; i < port; i++ {
		p[i] = absentSigned
	}
	p[15] = sf(wattSF)
	p[port], p[port+12] = 1, p[4]
	switch d.fault {
	case BadPower:
		p[port+12] = 32767
	case WithRoof:
		p[port] = 0
	}
	d.spoil(p, 15)
	return p
}

// remote is model 715: who controls the device.
func (d *Device) remote() []uint16 {
	p := fill(7, 0)
	if p[0] = 0; d.fault == LocalOnly {
		p[0] = 1
	}
	return p
}
