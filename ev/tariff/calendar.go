// Package tariff says what a kWh costs at an instant, for charging sessions and household contracts alike.
//
// A Calendar is built once from a Spec with New, checked there, and immutable afterwards: it may be shared by
// goroutines. It holds four layers. For an instant the first layer that covers it gives the rates:
//
//  1. Overlays: critical-peak windows announced with notice (CPP);
//  2. Vector: a price per step, such as a day-ahead market (RTP);
//  3. Blocks: an import rate that depends on the energy already taken in the billing period;
//  4. Days: weekday, Saturday, Sunday and holiday tables of half-open local times.
//
// Register and available power always come from Days, if there are any.
//
// Local time is that of an IANA zone, so a day has 23 or 25 hours when clocks change: the hour that happens
// twice has the same price twice. Start with Flat, DayNight or New, then ask PriceAt or Pieces.
//
// The package guarantees that PriceAt either answers or returns ErrNoPrice, that Encode and Decode are inverse
// to each other, and that Hash names exactly one set of prices. It does not guarantee that two machines agree
// on a zone whose rules changed after one of them was installed.
//
// Units: rates in millionths of the currency unit per kWh, energy in mWh, power in W, time in UTC milliseconds.
package tariff

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"
	_ "time/tzdata" // a home router often has no zone files
)

// DayType selects one of the four day tables of a Spec.
type DayType uint8

// The day types. A date listed in Spec.Holidays is a Holiday whatever its weekday.
const (
	Weekday DayType = iota
	Saturday
	Sunday
	Holiday
	dayTypes
)

// Register is the contract register that a band counts into.
type Register uint8

// The registers of a contract: one rate all day, or day and night apart.
const (
	RegisterFlat Register = iota
	RegisterDay
	RegisterNight
	registers
)

// String names the register as it stands on a bill.
func (r Register) String() string {
	switch r {
	case RegisterFlat:
		return "flat"
	case RegisterDay:
		return "day"
	case RegisterNight:
		return "night"
	}
	return fmt.Sprintf("register %d", uint8(r))
}

// Band is one half-open stretch [FromMin, ToMin) of a local day.
type Band struct {
	FromMin, ToMin int      // minutes of the local wall clock after midnight, 0..1440
	Register       Register // register that the energy counts into
	Import, Export int64    // rates, micro/kWh
	AvailableW     int64    // contracted power in W; zero means no limit
}

// Date is a calendar date of the local zone.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// Vector is one price per step, for example a day-ahead market.
type Vector struct {
	From   int64   // UTC ms of the first step
	StepS  int     // length of a step in s, 1..86400
	Import []int64 // micro/kWh; one per step
	Export []int64 // micro/kWh; as many as Import
}

// Overlay is a critical-peak window [From, To) that replaces both rates.
type Overlay struct {
	Announced      int64 // UTC ms at which customers were told
	From, To       int64 // UTC ms
	Import, Export int64 // micro/kWh
}

// Block gives the import rate of all energy of the period up to UpTo.
type Block struct {
	UpTo   int64 // mWh since the start of the billing period; the last block has MaxEnergy
	Import int64 // micro/kWh
}

// Spec is the readable form of a calendar. New checks and copies it.
type Spec struct {
	Version   uint32 // counts changes of one tariff
	Currency  uint16 // ISO 4217 numeric code, 978 = EUR
	Zone      string // IANA name, "Europe/Rome"
	From      int64  // UTC ms at which the calendar begins to hold; earlier instants have no price
	Days      [4][]Band
	Holidays  []Date // sorted, distinct
	Vector    *Vector
	NoticeMin int // least minutes between Announced and From of an overlay
	Overlays  []Overlay
	Blocks    []Block
}

// Limits of a calendar.
const (
	MaxEnergy   = math.MaxInt64 // UpTo of the last block
	MaxBands    = 96            // one per quarter hour
	MaxHolidays = 1024          // some forty years of them
	MaxSteps    = 8928          // a month of 5-minute prices
	MaxOverlays = 255
	MaxBlocks   = 16
	maxZone     = 64
	minutesADay = 1440
)

// Errors of the package. InvalidError wraps ErrInvalid.
var (
	// ErrNoPrice says that no layer of the calendar covers the instant: obtain a newer calendar or vector.
	ErrNoPrice = errors.New("tariff: no price for this time; fetch the calendar that covers it")
	// ErrInvalid says that a calendar breaks one of the rules of Spec.
	ErrInvalid = errors.New("tariff: invalid calendar")
)

// Calendar is a checked, immutable set of prices.
type Calendar struct {
	spec     Spec
	loc      *time.Location
	holidays map[Date]bool
}

// New checks s, copies it and returns the calendar. The error wraps ErrInvalid and names the first rule broken.
func New(s Spec) (*Calendar, error) {
	if err := check(s); err != nil {
		return nil, err
	}
	loc, err := time.LoadLocation(s.Zone)
	if err != nil {
		return nil, invalid("unknown zone %q: want an IANA name such as Europe/Rome", s.Zone)
	}
	c := &Calendar{spec: clone(s), loc: loc, holidays: make(map[Date]bool, len(s.Holidays))}
	for _, d := range s.Holidays {
		c.holidays[d] = true
	}
	return c, nil
}

// Flat returns a calendar with one import and one export rate at all times.
func Flat(currency uint16, zone string, importRate, exportRate int64) (*Calendar, error) {
	day := []Band{{ToMin: minutesADay, Register: RegisterFlat, Import: importRate, Export: exportRate}}
	return New(Spec{Version: 1, Currency: currency, Zone: zone, Days: [4][]Band{day, day, day, day}})
}

// DayNight returns a calendar whose weekdays have the day rate in [fromMin, toMin) and the night rate
// otherwise. Saturdays, Sundays and holidays have the night rate all day. The export rate is one.
func DayNight(currency uint16, zone string, fromMin, toMin int, day, night, export int64, holidays []Date) (*Calendar, error) {
	dark := func(from, to int) Band {
		return Band{FromMin: from, ToMin: to, Register: RegisterNight, Import: night, Export: export}
	}
	weekday := []Band{{FromMin: fromMin, ToMin: toMin, Register: RegisterDay, Import: day, Export: export}}
	if fromMin > 0 {
		weekday = append([]Band{dark(0, fromMin)}, weekday...)
	}
	if toMin < minutesADay {
		weekday = append(weekday, dark(toMin, minutesADay))
	}
	rest := []Band{dark(0, minutesADay)}
	return New(Spec{Version: 1, Currency: currency, Zone: zone,
		Days: [4][]Band{weekday, rest, rest, rest}, Holidays: holidays})
}

// Spec returns a copy of what the calendar was built from.
func (c *Calendar) Spec() Spec { return clone(c.spec) }

// Currency returns the ISO 4217 numeric code of all rates.
func (c *Calendar) Currency() uint16 { return c.spec.Currency }

// Location returns the zone whose wall clock selects days and bands.
func (c *Calendar) Location() *time.Location { return c.loc }

// WithVector returns a calendar that has v in place of the present vector and the next version number.
func (c *Calendar) WithVector(v Vector) (*Calendar, error) {
	s := c.Spec()
	s.Vector, s.Version = &v, s.Version+1
	return New(s)
}

// DayTypeOf says which day table holds at the instant.
func (c *Calendar) DayTypeOf(at int64) DayType {
	return c.dayType(time.UnixMilli(at).In(c.loc))
}

func (c *Calendar) dayType(t time.Time) DayType {
	y, m, d := t.Date()
	switch {
	case c.holidays[Date{y, m, d}]:
		return Holiday
	case t.Weekday() == time.Saturday:
		return Saturday
	case t.Weekday() == time.Sunday:
		return Sunday
	}
	return Weekday
}

// band returns the band that holds at the local time t; ok is false for a calendar without day tables.
func (c *Calendar) band(t time.Time) (b Band, ok bool) {
	bands := c.spec.Days[c.dayType(t)]
	minute := t.Hour()*60 + t.Minute()
	i := sort.Search(len(bands), func(i int) bool { return bands[i].ToMin > minute })
	if i == len(bands) {
		return Band{}, false
	}
	return bands[i], true
}

func clone(s Spec) Spec {
	for i := range s.Days {
		s.Days[i] = slices.Clone(s.Days[i])
	}
	s.Holidays, s.Overlays, s.Blocks = slices.Clone(s.Holidays), slices.Clone(s.Overlays), slices.Clone(s.Blocks)
	if s.Vector != nil {
		v := *s.Vector
		v.Import, v.Export = slices.Clone(v.Import), slices.Clone(v.Export)
		s.Vector = &v
	}
	return s
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
