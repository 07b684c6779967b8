package tariff

import (
	"math"
	"slices"
	"time"
)

// check tests every rule of a Spec except that the zone exists.
func check(s Spec) error {
	switch {
	case s.Currency == 0 || s.Currency > 999:
		return invalid("currency %d: want an ISO 4217 number such as 978", s.Currency)
	case s.Zone == "" || len(s.Zone) > maxZone || s.Zone == "Local":
		return invalid("zone %q: want an IANA name such as Europe/Rome", s.Zone)
	case s.From < 0:
		return invalid("it begins before 1970")
	case s.NoticeMin < 0 || s.NoticeMin > math.MaxUint16:
		return invalid("notice of %d minutes", s.NoticeMin)
	}
	for _, step := range []func(Spec) error{checkDays, checkHolidays, checkVector, checkOverlays, checkBlocks} {
		if err := step(s); err != nil {
			return err
		}
	}
	if len(s.Days[0]) == 0 && s.Vector == nil {
		return invalid("it has neither day tables nor a vector of prices")
	}
	return nil
}

// checkDays wants either no table at all or four that cover 00:00 to 24:00 without gap or overlap.
func checkDays(s Spec) error {
	for day, bands := range s.Days {
		if (len(bands) == 0) != (len(s.Days[0]) == 0) {
			return invalid("day type %d: give all four day tables or none", day)
		}
		if len(bands) > MaxBands {
			return invalid("day type %d has %d bands, more than %d", day, len(bands), MaxBands)
		}
		minute := 0
		for i, b := range bands {
			if b.FromMin != minute || b.ToMin <= b.FromMin || b.ToMin > minutesADay {
				return invalid("day type %d, band %d: [%d, %d) must begin at minute %d and not be empty", day, i, b.FromMin, b.ToMin, minute)
			}
			if b.Register >= registers || !isRate(b.Import) || !isRate(b.Export) || b.AvailableW < 0 || b.AvailableW > math.MaxUint32 {
				return invalid("day type %d, band %d: rate, register or power out of range", day, i)
			}
			minute = b.ToMin
		}
		if len(bands) > 0 && minute != minutesADay {
			return invalid("day type %d ends at minute %d, want 1440", day, minute)
		}
	}
	return nil
}

func checkHolidays(s Spec) error {
	if len(s.Holidays) > MaxHolidays {
		return invalid("%d holidays, more than %d", len(s.Holidays), MaxHolidays)
	}
	if !slices.IsSortedFunc(s.Holidays, func(a, b Date) int { return int(a.number()) - int(b.number()) }) {
		return invalid("holidays are not sorted")
	}
	for i, d := range s.Holidays {
		if d.Year < 1970 || d.Year > 9999 || dateOf(d.number()) != d {
			return invalid("holiday %04d-%02d-%02d is not a date", d.Year, d.Month, d.Day)
		}
		if i > 0 && s.Holidays[i-1] == d {
			return invalid("holiday %04d-%02d-%02d stands twice", d.Year, d.Month, d.Day)
		}
	}
	return nil
}

func checkVector(s Spec) error {
	v := s.Vector
	switch {
	case v == nil:
		return nil
	case v.From < 0 || v.From > maxTime || v.StepS < 1 || v.StepS > 86_400:
		return invalid("vector from %d with steps of %d s", v.From, v.StepS)
	case len(v.Import) == 0 || len(v.Import) != len(v.Export) || len(v.Import) > MaxSteps:
		return invalid("vector with %d import and %d export prices: want as many of both, 1 to %d", len(v.Import), len(v.Export), MaxSteps)
	}
	for i := range v.Import {
		if !isRate(v.Import[i]) || !isRate(v.Export[i]) {
			return invalid("vector step %d: rate out of range", i)
		}
	}
	return nil
}

func checkOverlays(s Spec) error {
	if len(s.Overlays) > MaxOverlays {
		return invalid("%d overlays, more than %d", len(s.Overlays), MaxOverlays)
	}
	var end int64
	for i, o := range s.Overlays {
		if o.Announced < 0 || o.From < end || o.To <= o.From || o.To > maxTime {
			return invalid("overlay %d: windows must be sorted, apart and not empty", i)
		}
		if o.From-o.Announced < int64(s.NoticeMin)*60_000 {
			return invalid("overlay %d was announced less than %d minutes ahead", i, s.NoticeMin)
		}
		if !isRate(o.Import) || !isRate(o.Export) {
			return invalid("overlay %d: rate out of range", i)
		}
		end = o.To
	}
	return nil
}

func checkBlocks(s Spec) error {
	if len(s.Blocks) > MaxBlocks {
		return invalid("%d blocks, more than %d", len(s.Blocks), MaxBlocks)
	}
	var upTo int64
	for i, b := range s.Blocks {
		if b.UpTo <= upTo || !isRate(b.Import) {
			return invalid("block %d: limits must rise and the rate be in range", i)
		}
		upTo = b.UpTo
	}
	if len(s.Blocks) > 0 && upTo != MaxEnergy {
		return invalid("the last block must have no end")
	}
	return nil
}

const maxTime = 253_402_300_800_000 // year 10000: keeps sums of times far from overflow

func isRate(r int64) bool { return r >= math.MinInt32 && r <= math.MaxInt32 }

// number counts days since 1970-01-01 for the wire.
func (d Date) number() int64 {
	return time.Date(d.Year, d.Month, d.Day, 0, 0, 0, 0, time.UTC).Unix() / 86_400
}

func dateOf(number int64) Date {
	y, m, d := time.Unix(number*86_400, 0).UTC().Date()
	return Date{y, m, d}
}
