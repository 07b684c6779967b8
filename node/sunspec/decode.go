package sunspec

import (
	"fmt"
	"math"
	"strings"
	"time"

	"gridveil/battery"
)

// Offsets of points behind a model's head.
const (
	comMaker, comMakerLen = 0, 16
	comModel, comModelLen = 16, 16

	stoChaMax, stoMode, stoCharge, stoStatus = 0, 3, 6, 9
	stoOut, stoIn, stoWin, stoRevert         = 10, 11, 12, 13
	stoGrid                                  = 15
	stoChaMaxSF, stoChargeSF, stoRateSF      = 16, 20, 23

	derRating, derCharge, derStatus = 0, 2, 4
	derRatingSF, derChargeSF        = 5, 6

	batRating, batChaMax, batDisMax           = 1, 2, 3
	batCharge, batStatus, batLocal            = 9, 14, 15
	batState, batPower                        = 20, 45
	batRatingSF, batMaxSF, batChargeSF        = 51, 52, 54
	batPowerSF                                = 61
	statusDischarging, statusCharging         = 3, 4
	stateDisconnected, stateFault      uint16 = 1, 99
)

// simulatedModel is how a simulated device calls itself in model 1.
const simulatedModel = "simulated battery"

// Bounds of what a home battery can say.
const (
	leastPower, mostPower     = 100, 1e6 // W
	leastCapacity, mostWattHr = 100, 1e7 // Wh
	mostCharge                = 1.02     // inverters show up to 101 % while they balance cells
)

// Rating is what a device says that it can do; zero where it does not say.
type Rating struct {
	Maker, Model            string
	Simulated               bool
	Capacity                battery.WattHours
	MaxCharge, MaxDischarge battery.Watts
	Reverts                 bool // gives a command up by itself when the next does not come
}

// Reading is what a battery does now.
type Reading struct {
	Charge float64       // 0..1
	Grain  float64       // the smallest difference of Charge that it tells
	Power  battery.Watts // DC, discharge positive; only where HasPower
	// HasPower says whether the device measures it (model 802).
	HasPower bool
	Local    bool // under local control: commands are ignored
	RoofOnly bool // set to charge from the roof alone
	Flown    Flown
	HasFlown bool
}

// Flown are counters of a simulated device, for the simulated house around it.
type Flown struct {
	In, Out int64 // mWh at the meter's side
	Stored  battery.WattHours
}

// state are the models of one look at a device.
type state struct {
	common, storage, ratings, control, der, dc, remote, battery, link points
}

// rating decodes what the device is. It gives ErrAbsurd or ErrMissing.
func (s state) rating() (Rating, error) {
	r := Rating{Maker: s.common.text(comMaker, comMakerLen), Model: s.common.text(comModel, comModelLen)}
	r.Simulated = strings.HasPrefix(r.Model, simulatedModel)
	var err error
	if r.MaxCharge, r.MaxDischarge, err = s.limits(); err != nil {
		return r, err
	}
	if r.Reverts, err = s.controls(); err != nil {
		return r, err
	}
	wh, ok := s.der.value(derRating, derRatingSF)
	if !ok {
		wh, ok = s.battery.value(batRating, batRatingSF)
	}
	if ok && (wh < leastCapacity || wh > mostWattHr) {
		return r, fmt.Errorf("%w: capacity is %g Wh", ErrAbsurd, wh)
	}
	if ok {
		r.Capacity = battery.WattHours(wh)
	}
	return r, nil
}

// reading decodes what the battery does. It gives ErrFault, ErrMissing or ErrAbsurd.
func (s state) reading() (Reading, error) {
	var r Reading
	if err := s.faults(); err != nil {
		return r, err
	}
	var ok bool
	if r.Charge, r.Grain, ok = s.charge(); !ok {
		return r, fmt.Errorf("%w: state of charge (models 713, 802 and 124)", ErrMissing)
	}
	if r.Charge > mostCharge {
		return r, fmt.Errorf("%w: state of charge is %.0f %%", ErrAbsurd, 100*r.Charge)
	}
	r.Charge = min(r.Charge, 1)
	w, ok := s.battery.signedValue(batPower, batPowerSF)
	if !ok {
		w, ok = s.dcPower()
	}
	if ok {
		charge, discharge, err := s.limits()
		if err != nil {
			return r, err
		}
		if math.Abs(w) > 2*float64(max(charge, discharge))+500 {
			return r, fmt.Errorf("%w: battery power is %g W", ErrAbsurd, w)
		}
		r.Power, r.HasPower = battery.Watts(w), true
		switch status, _ := s.battery.number(batStatus); status { // devices differ in the sign
		case statusDischarging:
			r.Power = battery.Watts(math.Abs(w))
		case statusCharging:
			r.Power = battery.Watts(-math.Abs(w))
		}
	}
	for _, p := range []struct {
		points
		i int
	}{{s.battery, batLocal}, {s.remote, remLocal}} {
		if v, ok := p.number(p.i); ok && v == 1 {
			r.Local = true
		}
	}
	if v, ok := s.storage.number(stoGrid); ok {
		r.RoofOnly = v == 0
	}
	r.Flown, r.HasFlown = s.link.flown()
	return r, nil
}

func (s state) faults() error {
	if v, ok := s.battery.number(batState); ok && (v == stateFault || v == stateDisconnected) {
		return fmt.Errorf("%w (model 802 State %d)", ErrFault, v)
	}
	failed := uint16(2) // OK, WARNING, ERROR count from 0; devices of the draft without a scale of the charge count from 1
	if len(s.der) <= derChargeSF {
		failed = 3
	}
	if v, ok := s.der.number(derStatus); ok && v == failed {
		return fmt.Errorf("%w (model 713 Sta %d)", ErrFault, v)
	}
	return nil
}

// charge is the state of charge in its finest form, with the step that it moves in.
func (s state) charge() (charge, grain float64, ok bool) {
	take := func(p points, i, sf int) {
		v, known := p.value(i, sf)
		u, _ := p.unit(sf)
		if known && (!ok || u/100 < grain) {
			charge, grain, ok = v/100, u/100, true
		}
	}
	take(s.der, derCharge, derChargeSF)
	take(s.battery, batCharge, batChargeSF)
	take(s.storage, stoCharge, stoChargeSF)
	return charge, grain, ok
}

// rates are model 124's two rates for a battery power: where more than that
// power may neither leave nor enter, exactly that power flows.
func (s state) rates(w battery.Watts) (out, in uint16, err error) {
	most, ok := s.storage.value(stoChaMax, stoChaMaxSF)
	unit, scaled := s.storage.unit(stoRateSF)
	if !ok || !scaled || most < leastPower {
		return 0, 0, fmt.Errorf("%w: model 124 does not say what a rate is", ErrMissing)
	}
	percent := math.Round(min(max(float64(w)/most*100, -100), 100) / unit)
	if math.IsNaN(percent) || math.Abs(percent) > math.MaxInt16 {
		return 0, 0, fmt.Errorf("%w: a rate of %g in units of %g %%", ErrAbsurd, percent, unit)
	}
	return uint16(int16(percent)), uint16(int16(-percent)), nil
}

// seconds is d for a timer, rounded up.
func seconds(d time.Duration) uint16 {
	return uint16(min(max((d+time.Second-1)/time.Second, 1), 3600))
}
