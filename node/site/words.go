package site

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// millionth units and mWh are written for people here, and only here.
const (
	microPerUnit = 1_000_000
	microPerCent = microPerUnit / 100
	mWhPerKWh    = 1_000_000
)

// Euro is the currency of the plans that this version knows.
const Euro = "EUR"

// Money writes millionths as people read money, "EUR 1.81".
func Money(micro int64, currency string) string { return currency + " " + Amount(micro) }

// Amount is Money without its currency. What is less than a cent is rounded half
// away from zero; the evidence holds the millionths.
func Amount(micro int64) string {
	sign := ""
	if micro < 0 {
		sign, micro = "-", -micro
	}
	cents := (micro + microPerCent/2) / microPerCent
	if cents == 0 {
		sign = ""
	}
	return fmt.Sprintf("%s%d.%02d", sign, cents/100, cents%100)
}

// Rate writes a price per kWh, given in millionths, with four places, "0.3200";
// what is less than a hundredth of a cent is cut.
func Rate(micro int64) string {
	sign := ""
	if micro < 0 {
		sign, micro = "-", -micro
	}
	return fmt.Sprintf("%s%d.%04d", sign, micro/microPerUnit, micro%microPerUnit/100)
}

// Energy writes mWh in kWh with three places.
func Energy(mWh int64) string {
	sign := ""
	if mWh < 0 {
		sign, mWh = "-", -mWh
	}
	wh := (mWh + 500) / 1000
	return fmt.Sprintf("%s%d.%03d kWh", sign, wh/1000, wh%1000)
}

// KWh is mWh as a number for a chart or a table.
func KWh(mWh int64) float64 { return float64(mWh) / mWhPerKWh }

// Watts writes a power, "702 W" or "3.12 kW".
func Watts(w float64) string {
	if w >= 1000 || w <= -1000 {
		return fmt.Sprintf("%.2f kW", w/1000)
	}
	if w > -.5 && w < .5 {
		w = 0 // not "-0 W"
	}
	return fmt.Sprintf("%.0f W", w)
}

// ShortID is how a session or pseudonym is written for people: "7F3A-92".
func ShortID(id []byte) string {
	if len(id) < 3 {
		return "none"
	}
	h := strings.ToUpper(hex.EncodeToString(id[:3]))
	return h[:4] + "-" + h[4:]
}

// Count groups digits by three, "18 204".
func Count[T ~int | ~int64 | ~uint32 | ~uint64](n T) string {
	s := fmt.Sprint(n)
	head := len(s) % 3
	if strings.HasPrefix(s, "-") && head == 1 {
		head += 3
	}
	var parts []string
	if head > 0 {
		parts = append(parts, s[:head])
	}
	for i := head; i < len(s); i += 3 {
		parts = append(parts, s[i:i+3])
	}
	return strings.Join(parts, "\u202f") // narrow space that does not break
}

// Plural writes a number with its noun: "1 home", "3 homes".
func Plural[T ~int | ~int64 | ~uint32 | ~uint64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}

// Span writes a duration as people say it: "2 h 15 min", "40 s".
func Span(d time.Duration) string {
	d = max(0, d)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		if m := int(d.Minutes()) % 60; m != 0 {
			return fmt.Sprintf("%d h %d min", int(d.Hours()), m)
		}
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// sentence starts with a capital letter and ends with a full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// lowerFirst starts with a small letter, for the rest of a sentence.
func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// list joins words: "a, b and c".
func list(words []string) string {
	switch n := len(words); n {
	case 0:
		return ""
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}

// title starts with a capital letter.
func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
