package sunspec

import (
	"fmt"
	"math"

	"gridveil/battery"
)

// Offsets of points behind the heads of models 702, 704, 714 and 715.
const (
	ratMax, ratCharge, ratDischarge          = 0, 8, 9 // what it was built for
	ratSetMax, ratSetCharge, ratSetDischarge = 24, 32, 33
	ratSF                                    = 43

	ctlSize                          = 65 // drafts are longer, and their points elsewhere
	ctlOn, ctlMode                   = 20, 21
	ctlWatts, ctlPercent             = 22, 26
	ctlOnAfter, ctlRevert, ctlRemain = 28, 29, 31
	ctlWattsSF, ctlPercentSF         = 53, 54
	modePercent, modeWatts           = 0, 1

	portCount, portsAt, portSize = 2, 18, 25
	portKind, portPower          = 0, 12
	portPowerSF                  = 15
	portRoof, portBattery        = 0, 1

	remLocal = 0
)

// byStorage says whether model 124 controls the battery: where a device has 704 too,
// 124 is older and sets the battery alone.
func (s state) byStorage() bool { return len(s.storage) > 0 }

// limits are the most that the battery takes and gives, W. They give ErrMissing or
// ErrAbsurd.
func (s state) limits() (charge, discharge battery.Watts, err error) {
	if s.byStorage() {
		w, ok := s.storage.value(stoChaMax, stoChaMaxSF)
		if !ok {
			return 0, 0, fmt.Errorf("%w: most charging power (model 124 WChaMax)", ErrMissing)
		}
		charge, discharge = battery.Watts(w), battery.Watts(w)
	} else {
		charge, discharge = s.rated(ratSetCharge, ratCharge, batChaMax), s.rated(ratSetDischarge, ratDischarge, batDisMax)
		if charge == 0 || discharge == 0 {
			return 0, 0, fmt.Errorf("%w: most power of charging or discharging (model 702 WChaRteMax and WDisChaRteMax, or 802)", ErrMissing)
		}
	}
	for _, w := range []battery.Watts{charge, discharge} {
		if w < leastPower || w > mostPower {
			return 0, 0, fmt.Errorf("%w: its most power is %g W", ErrAbsurd, float64(w))
		}
	}
	if v, ok := s.battery.value(batDisMax, batMaxSF); ok && v >= leastPower && v <= mostPower {
		discharge = min(discharge, battery.Watts(v))
	}
	if v, ok := s.battery.value(batChaMax, batMaxSF); ok && v >= leastPower && v <= mostPower {
		charge = min(charge, battery.Watts(v))
	}
	return charge, discharge, nil
}

// rated is a power of model 702: as it is set, else as it was built; else that of 802.
func (s state) rated(set, built, other int) battery.Watts {
	for _, i := range []int{set, built} {
		if v, ok := s.ratings.value(i, ratSF); ok && v > 0 {
			return battery.Watts(v)
		}
	}
	v, _ := s.battery.value(other, batMaxSF)
	return battery.Watts(v)
}

// controls says whether the battery can be told a power, and whether it gives it up by
// itself. It gives ErrMissing, ErrDraft or ErrRoof.
func (s state) controls() (reverts bool, err error) {
	if s.byStorage() {
		if _, ok := s.storage.unit(stoRateSF); !ok {
			return false, fmt.Errorf("%w: scale factor of the rates (model 124 InOutWRte_SF)", ErrMissing)
		}
		_, reverts = s.storage.number(stoRevert)
		return reverts, nil
	}
	if len(s.control) != ctlSize {
		return false, fmt.Errorf("%w: %d registers, want %d", ErrDraft, len(s.control), ctlSize)
	}
	if s.roof() {
		return false, ErrRoof
	}
	if _, ok := s.control.number(ctlOn); !ok {
		return false, fmt.Errorf("%w: active power cannot be set (model 704 WSetEna)", ErrMissing)
	}
	if _, _, err := s.setPoint(0); err != nil {
		return false, err
	}
	_, after := s.control.number(ctlOnAfter)
	_, timer := s.control.count(ctlRevert)
	return after && timer, nil
}

// setPoint is the value of model 704 for a battery power, and whether it is watts, not
// percent of the inverter's most power.
func (s state) setPoint(w battery.Watts) (value int32, watts bool, err error) {
	unit, scaled := s.control.unit(ctlWattsSF)
	_, has := s.control.long(ctlWatts)
	v, most := float64(w), float64(math.MaxInt32)
	if watts = has && scaled; !watts {
		full := 0.
		for _, i := range []int{ratSetMax, ratMax} {
			if v, ok := s.ratings.value(i, ratSF); ok && full == 0 {
				full = v
			}
		}
		unit, scaled = s.control.unit(ctlPercentSF)
		if _, has = s.control.signed(ctlPercent); !has || !scaled || full < leastPower || full > mostPower {
			return 0, false, fmt.Errorf("%w: a set point in watts (model 704 WSet) or in percent (WSetPct and 702 WMax)", ErrMissing)
		}
		v, most = min(max(v/full*100, -100), 100), math.MaxInt16
	}
	v = math.Round(v / unit)
	if math.IsNaN(v) || math.Abs(v) > most {
		return 0, false, fmt.Errorf("%w: a set point of %g in units of %g", ErrAbsurd, v, unit)
	}
	return int32(v), watts, nil
}

// clings says whether a command stands without a timer that would end it.
func (s state) clings() bool {
	on, _ := s.control.number(ctlOn)
	left, ok := s.control.count(ctlRemain)
	return !s.byStorage() && on == 1 && (!ok || left == 0)
}

// ports calls each for every DC port of model 714 that was read.
func (s state) ports(each func(p points)) {
	n, _ := s.dc.number(portCount)
	for i := range int(n) {
		if at := portsAt + i*portSize; at+portSize <= len(s.dc) {
			each(s.dc[at : at+portSize])
		}
	}
}

func (s state) roof() (found bool) {
	s.ports(func(p points) {
		if kind, ok := p.number(portKind); ok && kind == portRoof {
			found = true
		}
	})
	return found
}

// dcPower is what the battery gives at its DC side by model 714, W.
func (s state) dcPower() (w float64, ok bool) {
	unit, scaled := s.dc.unit(portPowerSF)
	s.ports(func(p points) {
		kind, known := p.number(portKind)
		v, has := p.signed(portPower)
		if known && kind == portBattery && has && scaled {
			w, ok = w+float64(v)*unit, true
		}
	})
	return w, ok
}
