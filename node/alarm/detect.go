package alarm

import (
	"fmt"
	"time"

	"gridveil/node/meter"
	"gridveil/node/model"
)

// Limits are the thresholds of a detector.
type Limits struct {
	VoltageMV   int64         // below this a phase is absent
	ClockWarn   time.Duration // offset plus uncertainty above this warns
	ClockCrit   time.Duration // and above this is critical
	Heartbeat   time.Duration // the device is silent after two of these
	FirmwareOK  func(ident string) bool
	DeviceKnown func(meter.Device) bool
}

// StandardLimits are those of doc/design.md for a device that should be heard
// once per heartbeat.
func StandardLimits(heartbeat time.Duration) Limits {
	return Limits{VoltageMV: 23_000, ClockWarn: 9 * time.Second, ClockCrit: 60 * time.Second, Heartbeat: heartbeat}
}

// Detector watches one device. It is pure: feed it every frame and a tick per
// second or so, and send what it returns. Not safe for concurrent use.
type Detector struct {
	lim       Limits
	device    [16]byte // goes into events
	simulated bool

	heard    int64 // newest frame or the start, UTC ms
	silent   bool
	dark     [3]bool
	phases   [3]bool // phases ever seen
	clock    int     // 0 good, 1 warned, 2 critical
	logins   int64
	known    bool // logins is set
	firmware string
	meter    meter.Device
	foreign  bool
}

// NewDetector watches a device from start on; device goes into its events.
func NewDetector(device [16]byte, lim Limits, start time.Time, simulated bool) *Detector {
	return &Detector{lim: lim, device: device, heard: start.UnixMilli(), simulated: simulated}
}

// Frame looks at what the device said and returns events without Seq.
func (d *Detector) Frame(f meter.Frame) (out []Event) {
	if d.silent {
		d.silent = false
		out = append(out, d.event(Malfunction, CodeSilent, f.At, f.Unc, Restored, "device answers again"))
	}
	d.heard = max(d.heard, f.At)
	out = append(out, d.voltage(f)...)
	out = append(out, d.login(f)...)
	out = append(out, d.clockOf(f)...)
	return append(out, d.identity(f)...)
}

// Tick notices a silent device: two heartbeats without a frame.
func (d *Detector) Tick(now time.Time) []Event {
	ms := now.UnixMilli()
	if d.silent || d.lim.Heartbeat <= 0 || ms-d.heard < 2*d.lim.Heartbeat.Milliseconds() {
		return nil
	}
	d.silent = true
	return []Event{d.event(Malfunction, CodeSilent, ms, 0, 0, "device is silent for two periods")}
}

func (d *Detector) event(k Kind, code uint16, at int64, unc uint32, flags Flags, detail string) Event {
	if d.simulated {
		flags |= Simulated
	}
	return Event{Priority: k.DefaultPriority(), Kind: k, Flags: flags, At: at, Unc: unc, Key: Key{Profile: 1, Code: code},
		Device: d.device, Count: 1, Detail: []byte(detail)}
}

func (d *Detector) voltage(f meter.Frame) (out []Event) {
	now, lost, any := d.dark, 0, 0
	for i, c := range [3]model.Channel{model.VoltageL1, model.VoltageL2, model.VoltageL3} {
		mv, ok := f.Get(c)
		if !ok {
			continue
		}
		d.phases[i] = true
		now[i] = mv < d.lim.VoltageMV
	}
	for i := range now {
		if d.phases[i] {
			any++
		}
		if now[i] {
			lost++
		}
	}
	if now == d.dark {
		return nil
	}
	before := d.dark
	d.dark = now
	if lost == any { // the whole supply: one event, not one per phase
		return []Event{d.event(VoltageAbsent, CodePowerDown, f.At, f.Unc, 0, "supply lost")}
	}
	for i := range now {
		switch {
		case now[i] && !before[i]:
			out = append(out, d.event(VoltageAbsent, CodePhaseL1+uint16(i), f.At, f.Unc, 0, fmt.Sprintf("phase L%d lost", i+1)))
		case !now[i] && before[i]:
			out = append(out, d.event(VoltageAbsent, CodePhaseL1+uint16(i), f.At, f.Unc, Restored, fmt.Sprintf("phase L%d back", i+1)))
		}
	}
	if lost == 0 && len(out) > 1 {
		return []Event{d.event(VoltageAbsent, CodePowerDown, f.At, f.Unc, Restored, "supply back")}
	}
	return out
}

func (d *Detector) login(f meter.Frame) []Event {
	n, ok := f.Get(model.AuthFailures)
	if !ok {
		return nil
	}
	before, known := d.logins, d.known
	d.logins, d.known = n, true
	if !known || n <= before {
		return nil
	}
	e := d.event(Unauthorised, CodeLogin, f.At, f.Unc, 0, "failed log-in at the meter")
	e.Count = uint32(min(n-before, 1<<31))
	return []Event{e}
}

func (d *Detector) clockOf(f meter.Frame) []Event {
	if f.MeterTime == 0 {
		return nil
	}
	off := f.MeterTime - f.At
	size := time.Duration(max(off, -off)+int64(f.Unc)) * time.Millisecond
	level := 0
	switch {
	case size > d.lim.ClockCrit:
		level = 2
	case size > d.lim.ClockWarn:
		level = 1
	}
	if level == d.clock {
		return nil
	}
	d.clock = level
	text := fmt.Sprintf("meter clock is off by %d s", off/1000)
	e := d.event(ClockDeviation, CodeClockDrift, f.At, f.Unc, 0, text)
	switch level {
	case 0:
		e.Flags |= Restored
	case 1:
		e.Flags |= Warning
		e.Priority = P2
	}
	return []Event{e}
}

func (d *Detector) identity(f meter.Frame) (out []Event) {
	if f.Firmware != "" && f.Firmware != d.firmware {
		first := d.firmware == ""
		d.firmware = f.Firmware
		below := d.lim.FirmwareOK != nil && !d.lim.FirmwareOK(f.Firmware)
		e := d.event(Firmware, CodeFirmware, f.At, f.Unc, 0, "meter firmware changed")
		if below {
			e.Priority, e.Detail = P1, []byte("meter firmware is below the ordered floor")
		}
		if below || !first {
			out = append(out, e)
		}
	}
	if f.Device != (meter.Device{}) && f.Device != d.meter {
		first := d.meter == meter.Device{}
		d.meter = f.Device
		foreign := d.lim.DeviceKnown != nil && !d.lim.DeviceKnown(f.Device)
		if foreign || !first && d.lim.DeviceKnown == nil {
			out = append(out, d.event(Unauthorised, CodeForeign, f.At, f.Unc, 0, "another meter answers in its place"))
		}
		d.foreign = foreign
	}
	return out
}
