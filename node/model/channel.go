package model

import (
	"encoding/hex"
	"fmt"
)

// UsagePoint is the contract handle that Billing gives to an LFID: 16 random
// bytes, never a serial number, name or address. It prints shortened.
type UsagePoint [16]byte

// String shows the first four bytes, enough to tell two apart on a screen.
func (u UsagePoint) String() string { return hex.EncodeToString(u[:4]) + ".." }

// SourceID names a reporting node: SHA-256(signing key)[:16].
type SourceID [16]byte

// String shows the first four bytes.
func (s SourceID) String() string { return hex.EncodeToString(s[:4]) + ".." }

// Unit of a channel's integer.
type Unit uint8

// The units; each is what one count of a value means.
const (
	UnitNone Unit = iota // a count or a code
	MilliWattHour
	MilliWatt
	MilliVolt
	MilliAmpere
	Millisecond
)

// String is the unit's symbol.
func (u Unit) String() string {
	return [...]string{"", "mWh", "mW", "mV", "mA", "ms"}[min(u, Millisecond)]
}

// Channel is the wire code of one measured quantity. Codes are never reused.
type Channel uint16

// The channels a source can deliver.
const (
	ImportTotal     Channel = 1
	ImportT1        Channel = 2
	ImportT2        Channel = 3
	ImportT3        Channel = 4
	ExportTotal     Channel = 5
	ExportT1        Channel = 6
	ExportT2        Channel = 7
	ExportT3        Channel = 8
	PowerImport     Channel = 16
	PowerExport     Channel = 17
	PowerImportL1   Channel = 18
	PowerImportL2   Channel = 19
	PowerImportL3   Channel = 20
	PowerExportL1   Channel = 21
	PowerExportL2   Channel = 22
	PowerExportL3   Channel = 23
	VoltageL1       Channel = 32
	VoltageL2       Channel = 33
	VoltageL3       Channel = 34
	CurrentL1       Channel = 36
	CurrentL2       Channel = 37
	CurrentL3       Channel = 38
	SagsL1          Channel = 40
	SagsL2          Channel = 41
	SagsL3          Channel = 42
	SwellsL1        Channel = 44
	SwellsL2        Channel = 45
	SwellsL3        Channel = 46
	PowerFails      Channel = 48
	LongPowerFails  Channel = 49
	TariffIndicator Channel = 56
	PowerLimit      Channel = 57
	DisconnectState Channel = 58
	AuthFailures    Channel = 60
)

// ChannelInfo describes a channel: its OBIS code without the group that says
// which physical channel, its unit, and the object of the access matrix that
// decides who may read it.
type ChannelInfo struct {
	Channel Channel
	OBIS    string // A-B:C.D.E
	Unit    Unit
	Object  Object
	Text    string
}

// channels is the registry, ascending by code.
var channels = []ChannelInfo{
	{ImportTotal, "1-0:1.8.0", MilliWattHour, ObjRegisters, "import register, all bands"},
	{ImportT1, "1-0:1.8.1", MilliWattHour, ObjRegisters, "import register, band 1"},
	{ImportT2, "1-0:1.8.2", MilliWattHour, ObjRegisters, "import register, band 2"},
	{ImportT3, "1-0:1.8.3", MilliWattHour, ObjRegisters, "import register, band 3"},
	{ExportTotal, "1-0:2.8.0", MilliWattHour, ObjRegisters, "export register, all bands"},
	{ExportT1, "1-0:2.8.1", MilliWattHour, ObjRegisters, "export register, band 1"},
	{ExportT2, "1-0:2.8.2", MilliWattHour, ObjRegisters, "export register, band 2"},
	{ExportT3, "1-0:2.8.3", MilliWattHour, ObjRegisters, "export register, band 3"},
	{PowerImport, "1-0:1.7.0", MilliWatt, ObjRegisters, "power now, import"},
	{PowerExport, "1-0:2.7.0", MilliWatt, ObjRegisters, "power now, export"},
	{PowerImportL1, "1-0:21.7.0", MilliWatt, ObjRegisters, "power now, import, L1"},
	{PowerImportL2, "1-0:41.7.0", MilliWatt, ObjRegisters, "power now, import, L2"},
	{PowerImportL3, "1-0:61.7.0", MilliWatt, ObjRegisters, "power now, import, L3"},
	{PowerExportL1, "1-0:22.7.0", MilliWatt, ObjRegisters, "power now, export, L1"},
	{PowerExportL2, "1-0:42.7.0", MilliWatt, ObjRegisters, "power now, export, L2"},
	{PowerExportL3, "1-0:62.7.0", MilliWatt, ObjRegisters, "power now, export, L3"},
	{VoltageL1, "1-0:32.7.0", MilliVolt, ObjVoltage, "voltage, L1"},
	{VoltageL2, "1-0:52.7.0", MilliVolt, ObjVoltage, "voltage, L2"},
	{VoltageL3, "1-0:72.7.0", MilliVolt, ObjVoltage, "voltage, L3"},
	{CurrentL1, "1-0:31.7.0", MilliAmpere, ObjVoltage, "current, L1"},
	{CurrentL2, "1-0:51.7.0", MilliAmpere, ObjVoltage, "current, L2"},
	{CurrentL3, "1-0:71.7.0", MilliAmpere, ObjVoltage, "current, L3"},
	{SagsL1, "1-0:32.32.0", UnitNone, ObjInterruptions, "voltage sags, L1"},
	{SagsL2, "1-0:52.32.0", UnitNone, ObjInterruptions, "voltage sags, L2"},
	{SagsL3, "1-0:72.32.0", UnitNone, ObjInterruptions, "voltage sags, L3"},
	{SwellsL1, "1-0:32.36.0", UnitNone, ObjInterruptions, "voltage swells, L1"},
	{SwellsL2, "1-0:52.36.0", UnitNone, ObjInterruptions, "voltage swells, L2"},
	{SwellsL3, "1-0:72.36.0", UnitNone, ObjInterruptions, "voltage swells, L3"},
	{PowerFails, "0-0:96.7.21", UnitNone, ObjPowerFail, "power failures"},
	{LongPowerFails, "0-0:96.7.9", UnitNone, ObjPowerFail, "long power failures"},
	{TariffIndicator, "0-0:96.14.0", UnitNone, ObjTariffs, "band the meter counts in"},
	{PowerLimit, "0-0:17.0.0", MilliWatt, ObjPowerLimit, "available power"},
	{DisconnectState, "0-0:96.3.10", UnitNone, ObjDisconnect, "disconnect element, 1 = closed"},
	{AuthFailures, "gv:authfail", UnitNone, ObjAuthFailures, "failed log-ins at the meter"},
}

// Channels lists the registry, ascending by code; the slice is a copy.
func Channels() []ChannelInfo { return append([]ChannelInfo(nil), channels...) }

// Info describes c; ok is false for a code outside the registry.
func (c Channel) Info() (ChannelInfo, bool) {
	for _, i := range channels {
		if i.Channel == c {
			return i, true
		}
	}
	return ChannelInfo{}, false
}

// String is the OBIS code, or the number of an unknown channel.
func (c Channel) String() string {
	if i, ok := c.Info(); ok {
		return i.OBIS
	}
	return fmt.Sprintf("channel %d", uint16(c))
}

// IsRegister says whether c only ever grows: an energy register.
func (c Channel) IsRegister() bool { return c >= ImportTotal && c <= ExportT3 }

// IsExport says whether c counts energy fed into the grid.
func (c Channel) IsExport() bool { return c >= ExportTotal && c <= ExportT3 }
