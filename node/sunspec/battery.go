package sunspec

import (
	"fmt"
	"sync"
	"time"

	"gridveil/battery"
)

// Battery is one battery on a line. Safe for concurrent use.
type Battery struct {
	line *Line
	unit uint8

	mu     sync.Mutex
	models map[uint16]block // nil until the device has been looked at, and after an error
	last   state
	rating Rating
	told   bool // a command by model 704 since the device was looked at
	clings bool // it was seen to stand without a timer
}

// NewBattery is the device with a Modbus unit number on l.
func NewBattery(l *Line, unit uint8) *Battery { return &Battery{line: l, unit: unit} }

// Rating is what the device said of itself; ok is false before the first Read
// that succeeded.
func (b *Battery) Rating() (r Rating, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rating, b.models != nil
}

// Read asks the device how it is. After an error the device is looked at anew:
// it may be another one. Besides the errors of a line it gives ErrNoMap, ErrMap,
// ErrNoControl, ErrDraft, ErrRoof, ErrMissing, ErrAbsurd or ErrFault.
func (b *Battery) Read() (Reading, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, err := b.read()
	if err != nil {
		b.models = nil
	}
	return r, err
}

func (b *Battery) read() (r Reading, err error) {
	if b.models == nil {
		if err := b.look(); err != nil {
			return r, err
		}
	}
	for _, m := range []struct {
		id   uint16
		into *points
	}{{modelStorage, &b.last.storage}, {modelRatings, &b.last.ratings}, {modelControl, &b.last.control}, {modelDER, &b.last.der}, {modelPorts, &b.last.dc},
		{modelRemote, &b.last.remote}, {modelBattery, &b.last.battery}, {LinkModel, &b.last.link}} {
		if err := b.fetch(m.id, m.into); err != nil {
			return r, err
		}
	}
	if b.rating, err = b.last.rating(); err != nil {
		return r, err
	}
	b.clings = b.clings || b.told && b.last.clings()
	b.rating.Reverts = b.rating.Reverts && !b.clings
	return b.last.reading()
}

// look finds the device's models.
func (b *Battery) look() error {
	b.last, b.told, b.clings = state{}, false, false
	models, err := discover(func(at, n uint16) ([]uint16, error) { return b.line.read(b.unit, at, n) })
	if err != nil {
		return err
	}
	_, storage := models[modelStorage]
	if _, ok := models[modelControl]; !ok && !storage {
		return ErrNoControl
	}
	b.models = models
	return b.fetch(modelCommon, &b.last.common)
}

// longest is how much of a model is read: of 714 four ports.
const longest = portsAt + 4*portSize

// fetch reads one model, if the device has it.
func (b *Battery) fetch(id uint16, into *points) error {
	m, ok := b.models[id]
	if !ok {
		return nil
	}
	p, err := b.line.read(b.unit, m.at, min(m.n, longest))
	if err != nil {
		return fmt.Errorf("read model %d: %w", id, err)
	}
	*into = p
	return nil
}

// Set asks for a battery power, discharge positive, that holds for keep unless
// the next Set comes before. It gives ErrUnread unless the last Read succeeded.
func (b *Battery) Set(w battery.Watts, keep time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.models == nil {
		return ErrUnread
	}
	if !b.last.byStorage() {
		return b.setActive(w, keep)
	}
	out, in, err := b.last.rates(w)
	if err != nil {
		return err
	}
	at := b.models[modelStorage].at
	values := []uint16{out, in}
	_, hasWindow := b.last.storage.number(stoWin)
	if hasWindow && b.rating.Reverts {
		values = append(values, 0 /* at once, not at random within a window */, seconds(keep))
	}
	if err := b.line.write(b.unit, at+stoOut, values...); err != nil {
		return fmt.Errorf("set the battery's power: %w", err)
	}
	if !hasWindow && b.rating.Reverts {
		if err := b.line.write(b.unit, at+stoRevert, seconds(keep)); err != nil {
			return fmt.Errorf("set the battery's own watchdog: %w", err)
		}
	}
	const both = 3 // rates of charging and of discharging count
	if mode, ok := b.last.storage.number(stoMode); !ok || mode&both != both {
		if err := b.line.write(b.unit, at+stoMode, both); err != nil {
			return fmt.Errorf("take control of the battery: %w", err)
		}
	}
	return nil
}

// setActive asks by model 704: value, timer, and then what makes both count.
func (b *Battery) setActive(w battery.Watts, keep time.Duration) error {
	value, watts, err := b.last.setPoint(min(max(w, -b.rating.MaxCharge), b.rating.MaxDischarge))
	if err != nil {
		return err
	}
	at := b.models[modelControl].at
	if watts {
		err = b.line.write(b.unit, at+ctlMode, modeWatts, uint16(uint32(value)>>16), uint16(value))
	} else if err = b.line.write(b.unit, at+ctlMode, modePercent); err == nil {
		err = b.line.write(b.unit, at+ctlPercent, uint16(value))
	}
	if err != nil {
		return fmt.Errorf("set the battery's power: %w", err)
	}
	_, after := b.last.control.number(ctlOnAfter)
	if _, timer := b.last.control.count(ctlRevert); after && timer {
		if err := b.line.write(b.unit, at+ctlOnAfter, 0, 0, seconds(keep)); err != nil {
			return fmt.Errorf("set the battery's own watchdog: %w", err)
		}
	}
	if err := b.line.write(b.unit, at+ctlOn, 1); err != nil {
		return fmt.Errorf("take control of the battery: %w", err)
	}
	b.told = true
	return nil
}

// Follow moves the clock of a simulated device to now; false for a device that
// has its own.
func (b *Battery) Follow(now time.Time) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m, ok := b.models[LinkModel]
	if !ok || !b.last.link.follows() {
		return false, nil
	}
	v := make([]uint16, 4)
	put64(v, uint64(now.UnixMilli()))
	return true, b.line.write(b.unit, m.at+linkTime, v...)
}
