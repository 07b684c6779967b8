package p1

import (
	"crypto/sha256"
	"strconv"
	"strings"
	"time"

	"gridveil/node/meter"
	"gridveil/node/model"
)

// Options say what a telegram leaves open.
type Options struct {
	// Offset is the meter's winter time minus UTC; zero means one hour (CET),
	// UTCWinter means zero (Ireland, United Kingdom).
	Offset time.Duration
}

// UTCWinter is the Offset of a meter whose winter time is UTC.
const UTCWinter time.Duration = -1

// target is where a code's value goes.
type target struct {
	channel model.Channel
	unit    model.Unit
}

// targets holds the registry and codes of meters that differ from it, each with
// and without the "*255" of D0 meters.
var targets = func() map[string]target {
	m := map[string]target{"0-0:96.15.1": {model.AuthFailures, model.UnitNone}} // COSEM event counter
	for _, c := range model.Channels() {
		m[c.OBIS] = target{c.Channel, c.Unit}
		m[c.OBIS+"*255"] = target{c.Channel, c.Unit}
	}
	return m
}()

// serialCodes say where a serial number can stand, best first.
var serialCodes = []string{"0-0:96.1.1", "0-0:96.1.0", "0-0:42.0.0", "1-0:0.0.0"}

// Frame turns the objects into channel values; what it does not know it leaves
// out. A total register that the meter lacks is the exact sum of its bands.
// Finer than 1 mWh is truncated and sets model.StatusRounded.
func (t Telegram) Frame(opt Options) (meter.Frame, error) {
	f := meter.Frame{Firmware: shown(t.Ident), Values: make([]meter.Value, 0, 32)}
	if t.CRC {
		f.Integrity = model.IntegrityChecksum
	}
	for i := range t.Objects {
		o := &t.Objects[i]
		to, ok := targets[o.Code]
		if !ok || len(o.Values) != 1 || o.Values[0] == "" {
			continue
		}
		if err := addValue(&f, to, o); err != nil {
			return meter.Frame{}, err
		}
	}
	addTotals(&f)
	if text, ok := t.Get("0-0:1.0.0"); ok {
		at, err := parseTime(text, opt.Offset)
		if err != nil {
			return meter.Frame{}, err
		}
		f.MeterTime = at
	}
	f.Device = t.device()
	return f, nil
}

// shown is an identification fit for a screen.
func shown(ident string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, ident)
}

func addValue(f *meter.Frame, to target, o *Object) error {
	n, rounded, known, err := parseNumber(o.Values[0], to.unit)
	if err != nil {
		return invalid("%s: %v", o.Code, err)
	}
	if !known {
		return nil // a unit of another quantity, such as a limit in A
	}
	if old, double := f.Get(to.channel); double {
		if old != n {
			return invalid("%s: two different values", o.Code)
		}
		return nil
	}
	if rounded && to.unit == model.MilliWattHour {
		f.Status |= model.StatusRounded
	}
	f.Values = append(f.Values, meter.Value{Channel: to.channel, N: n})
	return nil
}

// addTotals derives 1.8.0 and 2.8.0 of meters that only count per band.
func addTotals(f *meter.Frame) {
	for _, t := range []struct {
		total model.Channel
		bands [3]model.Channel
	}{
		{model.ImportTotal, [3]model.Channel{model.ImportT1, model.ImportT2, model.ImportT3}},
		{model.ExportTotal, [3]model.Channel{model.ExportT1, model.ExportT2, model.ExportT3}},
	} {
		if _, have := f.Get(t.total); have {
			continue
		}
		sum, any := int64(0), false
		for _, b := range t.bands {
			if n, ok := f.Get(b); ok {
				sum, any = sum+n, true
			}
		}
		if any {
			f.Values = append(f.Values, meter.Value{Channel: t.total, N: sum})
		}
	}
}

func (t Telegram) device() (d meter.Device) {
	for _, code := range serialCodes {
		if text, ok := t.Get(code); ok && text != "" && strings.Trim(text, "0") != "" {
			sum := sha256.Sum256([]byte("gridveil/device/v1\x00" + text))
			return meter.Device(sum[:8])
		}
	}
	return d
}

// DeviceOf is the device of a serial number as it stands in a telegram.
func DeviceOf(serial string) meter.Device {
	return Telegram{Objects: []Object{{Code: serialCodes[0], Values: []string{serial}}}}.device()
}

// maxDigits keeps any scaled number inside an int64.
const maxDigits = 11

// parseNumber reads "000123.456*kWh" into the channel's unit. known is false
// when the text's unit measures something else.
func parseNumber(text string, unit model.Unit) (n int64, rounded, known bool, err error) {
	number, suffix, has := strings.Cut(text, "*")
	exp, known := exponent(suffix, unit)
	if !known || has != (unit != model.UnitNone) {
		return 0, false, false, nil
	}
	whole, frac, _ := strings.Cut(number, ".")
	if whole == "" || len(whole) > maxDigits || len(frac) > maxDigits || !digits(whole) || !digits(frac) {
		return 0, false, false, strconv.ErrSyntax
	}
	for i := range len(whole) {
		n = n*10 + int64(whole[i]-'0')
	}
	for i := range exp {
		n *= 10
		if i < len(frac) {
			n += int64(frac[i] - '0')
		}
	}
	for i := exp; i < len(frac); i++ {
		rounded = rounded || frac[i] != '0'
	}
	if n > 1<<53-1 {
		return 0, false, false, strconv.ErrRange
	}
	return n, rounded, true, nil
}

// exponent is the power of ten from the text's unit to ours.
func exponent(suffix string, unit model.Unit) (int, bool) {
	switch unit {
	case model.MilliWattHour:
		return scale(suffix, "kWh", "Wh")
	case model.MilliWatt:
		return scale(suffix, "kW", "W")
	case model.MilliVolt:
		return scale(suffix, "kV", "V")
	case model.MilliAmpere:
		return scale(suffix, "kA", "A")
	case model.UnitNone:
		return 0, suffix == ""
	}
	return 0, false
}

func scale(suffix, kilo, base string) (int, bool) {
	switch suffix {
	case kilo:
		return 6, true
	case base:
		return 3, true
	}
	return 0, false
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// parseTime reads YYMMDDhhmmssX with X = S in summer and W in winter.
func parseTime(text string, offset time.Duration) (int64, error) {
	switch offset {
	case 0:
		offset = time.Hour
	case UTCWinter:
		offset = 0
	}
	if len(text) != 13 || !digits(text[:12]) || (text[12] != 'S' && text[12] != 'W') {
		return 0, invalid("0-0:1.0.0: want YYMMDDhhmmss and S or W")
	}
	part := func(i int) int { return int(text[i]-'0')*10 + int(text[i+1]-'0') }
	wall := time.Date(2000+part(0), time.Month(part(2)), part(4), part(6), part(8), part(10), 0, time.UTC)
	if wall.Format("060102150405") != text[:12] {
		return 0, invalid("0-0:1.0.0: no such date or time")
	}
	if text[12] == 'S' {
		offset += time.Hour
	}
	return wall.Add(-offset).UnixMilli(), nil
}

// FormatTime writes t as a meter at the offset shows it; summer adds the hour.
func FormatTime(t time.Time, offset time.Duration, summer bool) string {
	switch offset {
	case 0:
		offset = time.Hour
	case UTCWinter:
		offset = 0
	}
	mark := "W"
	if summer {
		offset, mark = offset+time.Hour, "S"
	}
	return t.UTC().Add(offset).Format("060102150405") + mark
}

// FormatFixed writes n (thousandths of the base unit, so mWh, mW, mV) in the
// kilo unit with decimals digits after the point and width before it, truncated
// as a meter's display does: FormatFixed(1234567, 6, 3, "kWh") = "000001.234*kWh".
func FormatFixed(n int64, width, decimals int, unit string) string {
	text := strconv.FormatInt(n, 10)
	if pad := width + 6 - len(text); pad > 0 {
		text = strings.Repeat("0", pad) + text
	}
	point := len(text) - 6
	out := text[:point]
	if decimals > 0 {
		out += "." + text[point:point+decimals]
	}
	return out + "*" + unit
}
