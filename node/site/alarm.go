package site

import (
	"time"

	"gridveil/node/alarm"
	"gridveil/node/gateway"
	"gridveil/node/utility"
	"gridveil/node/web"
)

// alarmKinds are the words of the page for the nine kinds.
var alarmKinds = map[alarm.Kind]string{
	alarm.Malfunction: "out of order", alarm.ClockDeviation: "clock wrong", alarm.ParameterChanged: "settings changed", alarm.Firmware: "firmware",
	alarm.VoltageAbsent: "voltage lost", alarm.Unauthorised: "wrong login or tampering", alarm.PowerControl: "power limit",
	alarm.DisconnectOff: "disconnected", alarm.Outage: "outage",
}

// priorities in words, most urgent first; the number stays beside them.
var priorities = [...]string{"P0 at once", "P1 soon", "P2 today", "P3 whenever"}

// Delivered is an alarm as it reached a utility; device names the connection.
func Delivered(d utility.Delivery, device string) web.AlarmRow {
	r := event(d.Event, d.Detail, device)
	r.ID, r.Class = d.ID.String(), d.Class.String()
	r.DeliveredMs = max(0, d.At.UnixMilli()-d.Event.At)
	return r
}

// Own is an alarm of the house that the gateway keeps itself. Its way is not
// known here, so DeliveredMs is -1.
func Own(s alarm.Stored) web.AlarmRow {
	detail := string(s.Event.Detail)
	if s.Event.Flags&alarm.Sealed != 0 {
		detail = ""
	}
	r := event(s.Event, detail, "your meter")
	if s.Event.Key.Profile == 2 {
		r.Device = "your gateway"
	}
	r.ID, r.DeliveredMs = s.Event.ID().String(), -1
	return r
}

// newest are the newest alarms of a house, newest first.
func newest(g *gateway.Gateway, n int) []web.AlarmRow {
	stored, err := g.Alarms(n)
	if err != nil {
		return nil // the store's own warning tells why
	}
	var out []web.AlarmRow
	for i := len(stored) - 1; i >= 0; i-- {
		out = append(out, Own(stored[i]))
	}
	return out
}

func event(e alarm.Event, detail, device string) web.AlarmRow {
	r := web.AlarmRow{At: time.UnixMilli(e.At).UTC(), Kind: alarmKinds[e.Kind], Device: device, Text: sentence(detail), Level: int(min(e.Priority, alarm.P3))}
	r.Priority = priorities[r.Level]
	if r.Text == "" {
		r.Text = sentence(e.Kind.String())
	}
	if e.Flags&alarm.Warning != 0 {
		r.Kind += ", warning"
	}
	if e.Flags&alarm.Restored != 0 {
		r.Kind, r.Over = r.Kind+" is over", true
	}
	if e.Count > 1 {
		r.Text += " " + Plural(int(e.Count), "time", "times") + " in a row."
	}
	return r
}
