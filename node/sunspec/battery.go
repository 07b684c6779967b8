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
// ErrNoControl, ErrMissing, ErrAbsurd or ErrFault.
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
	}{{modelStorage, &b.last.storage}, {modelDER, &b.last.der}, {modelBattery, &b.last.battery}, {LinkModel, &b.last.link}} {
		if err := b.fetch(m.id, m.into); err != nil {
			return r, err
		}
	}
	if b.rating, err = b.last.rating(); err != nil {
		return r, err
	}
	return b.last.reading()
}

// look finds the device's models.
func (b *Battery) look() error {
	b.last = state{}
	models, err := discover(func(at, n uint16) ([]uint16, error) { return b.line.read(b.unit, at, n) })
	if err != nil {
		return err
	}
	if _, ok := models[modelStorage]; !ok {
		return ErrNoControl
	}
	b.models = models
	return b.fetch(modelCommon, &b.last.common)
}

// longest is the length of the longest model that is read.
const longest = 66

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
