package sunspec

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// The models that are read.
const (
	modelCommon  = 1
	modelStorage = 124
	modelRatings = 702
	modelControl = 704
	modelDER     = 713
	modelPorts   = 714
	modelRemote  = 715
	modelBattery = 802
	modelEnd     = 0xFFFF
)

// Errors of a device.
var (
	// ErrNoMap means that no SunSpec map begins at 40000, 50000 or 0.
	ErrNoMap = errors.New("no SunSpec map")
	// ErrMap means that the map contradicts itself.
	ErrMap = errors.New("broken SunSpec map")
	// ErrNoControl means that the device has neither model 124 nor 704, so its battery cannot be told what to do.
	ErrNoControl = errors.New("no storage control (SunSpec model 124 or 704)")
	// ErrDraft means that its only control is a draft of model 704, whose points are elsewhere.
	ErrDraft = errors.New("a draft of SunSpec model 704")
	// ErrRoof means that model 704 would set battery and roof together.
	ErrRoof = errors.New("the inverter carries a roof too, and model 704 sets both together")
	// ErrMissing means that a value that is needed is not implemented or has no valid scale factor.
	ErrMissing = errors.New("value is missing")
	// ErrAbsurd means that a value is none that a home battery can have.
	ErrAbsurd = errors.New("absurd value")
	// ErrUnread means that the last Read failed, so that nothing may be commanded.
	ErrUnread = errors.New("the device has not been read")
	// ErrFault means that the battery itself says that it is out of order.
	ErrFault = errors.New("the battery reports a fault")
)

// bases are where a map may begin, in the order in which they are tried.
var bases = []uint16{40000, 50000, 0}

// maxModels bounds the walk over a map; devices have about twenty.
const maxModels = 64

// block is where a model's points are.
type block struct{ at, n uint16 }

// discover finds a device's models. read gives n registers from an address; where the
// device refuses to, the map does not begin there.
func discover(read func(at, n uint16) ([]uint16, error)) (map[uint16]block, error) {
	var last error
	for _, base := range bases {
		mark, err := read(base, 2)
		if err != nil {
			if last == nil || refused(last) {
				last = err
			}
			continue
		}
		if len(mark) == 2 && mark[0] == 'S'<<8|'u' && mark[1] == 'n'<<8|'S' {
			return walk(read, int(base)+2)
		}
	}
	switch {
	case last != nil && refused(last):
		return nil, fmt.Errorf("%w at 40000, 50000 or 0: %w", ErrNoMap, last)
	case last != nil: // silence says nothing of what there is
		return nil, fmt.Errorf("look for a SunSpec map: %w", last)
	}
	return nil, fmt.Errorf("%w at 40000, 50000 or 0", ErrNoMap)
}

// walk follows the models from address at to the end of the map. Of two models
// of one kind the first counts.
func walk(read func(at, n uint16) ([]uint16, error), at int) (map[uint16]block, error) {
	out := map[uint16]block{}
	for range maxModels {
		if at > math.MaxUint16-1 {
			return nil, fmt.Errorf("%w: a model begins behind the last register", ErrMap)
		}
		head, err := read(uint16(at), 2)
		if err != nil {
			return nil, fmt.Errorf("read the head of a model at %d: %w", at, err)
		}
		if len(head) != 2 {
			return nil, fmt.Errorf("%w: %d registers for a head of 2", ErrMap, len(head))
		}
		id, n := head[0], head[1]
		if id == modelEnd {
			break
		}
		if n == 0 || at+2+int(n) > math.MaxUint16 {
			return nil, fmt.Errorf("%w: model %d has %d registers", ErrMap, id, n)
		}
		if _, known := out[id]; !known {
			out[id] = block{uint16(at + 2), n}
		}
		at += 2 + int(n)
	}
	if _, ok := out[modelCommon]; !ok {
		return nil, fmt.Errorf("%w: model 1 is not in it", ErrMap)
	}
	return out, nil
}

// points are the registers of one model behind its head.
type points []uint16

// number is an unsigned point; false when it is absent.
func (p points) number(i int) (uint16, bool) {
	if i >= len(p) || p[i] == 0xFFFF {
		return 0, false
	}
	return p[i], true
}

// signed is a signed point; false when it is absent.
func (p points) signed(i int) (int16, bool) {
	if i >= len(p) || p[i] == 0x8000 {
		return 0, false
	}
	return int16(p[i]), true
}

// unit is ten to the power of the scale factor at i; false when it is none.
func (p points) unit(i int) (float64, bool) {
	sf, ok := p.signed(i)
	if !ok || sf < -10 || sf > 10 {
		return 0, false
	}
	return math.Pow10(int(sf)), true
}

// long is a signed point of two registers; false when it is absent.
func (p points) long(i int) (int32, bool) {
	if i+1 >= len(p) || p[i] == 0x8000 && p[i+1] == 0 {
		return 0, false
	}
	return int32(uint32(p[i])<<16 | uint32(p[i+1])), true
}

// count is an unsigned point of two registers; false when it is absent.
func (p points) count(i int) (uint32, bool) {
	if i+1 >= len(p) || p[i] == 0xFFFF && p[i+1] == 0xFFFF {
		return 0, false
	}
	return uint32(p[i])<<16 | uint32(p[i+1]), true
}

// value is the unsigned point i in the unit of scale factor sf.
func (p points) value(i, sf int) (float64, bool) {
	v, ok := p.number(i)
	u, scaled := p.unit(sf)
	return float64(v) * u, ok && scaled
}

// signedValue is the signed point i in the unit of scale factor sf.
func (p points) signedValue(i, sf int) (float64, bool) {
	v, ok := p.signed(i)
	u, scaled := p.unit(sf)
	return float64(v) * u, ok && scaled
}

// text is a string point of n registers: printable characters up to the first zero.
func (p points) text(i, n int) string {
	var b strings.Builder
	for j := i; j < i+n && j < len(p); j++ {
		for _, c := range []byte{byte(p[j] >> 8), byte(p[j])} {
			if c == 0 {
				return strings.TrimSpace(b.String())
			}
			if c >= ' ' && c < 0x7F {
				b.WriteByte(c)
			}
		}
	}
	return strings.TrimSpace(b.String())
}
