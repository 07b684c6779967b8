package node

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"gridveil/node/alarm"
	"gridveil/node/evidence"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/utility"
)

// Alarm is an event as `gridveil alarm list` shows it.
type Alarm struct {
	ID       string     `json:"id"`
	At       time.Time  `json:"at"`
	Priority int        `json:"priority"` // 0 is the most urgent
	Kind     string     `json:"kind"`
	Class    string     `json:"class"`
	Count    uint32     `json:"count"`
	Restored bool       `json:"restored,omitempty"`
	Detail   string     `json:"detail,omitempty"` // empty where it is sealed for somebody else
	AckedAt  *time.Time `json:"acknowledged,omitempty"`
}

// maxAlarms is how many events a list shows, the newest ones.
const maxAlarms = 200

// alarms lists the newest events of this node, newest first.
func (n *Node) alarms() ([]Alarm, error) {
	stored, err := n.newest()
	if err != nil {
		return nil, err
	}
	details := map[alarm.ID]string{}
	if u, ok := n.Role.(*utility.Utility); ok {
		for _, d := range u.Alarms() {
			details[d.ID] = d.Detail // as the head-end opened it
		}
	}
	inbox := alarm.OpenInbox(n.Store)
	out := []Alarm{}
	for i := len(stored) - 1; i >= 0; i-- {
		e := stored[i].Event
		v, err := inbox.ViewOf(n.viewer(), nil, e)
		if err != nil {
			return nil, err
		}
		a := Alarm{ID: hex.EncodeToString(v.Event[:]), At: time.UnixMilli(e.At).UTC(), Priority: int(e.Priority), Kind: e.Kind.String(), Class: v.Class.String(),
			Count: e.Count, Restored: e.Flags&alarm.Restored != 0, Detail: details[v.Event]}
		if e.Flags&alarm.Sealed == 0 {
			a.Detail = string(e.Detail)
		}
		if v.AckedBy != model.RoleUnknown {
			at := time.UnixMilli(v.AckedAt).UTC()
			a.AckedAt = &at
		}
		out = append(out, a)
	}
	return out, nil
}

func (n *Node) newest() ([]alarm.Stored, error) {
	inbox := alarm.OpenInbox(n.Store)
	var all []alarm.Stored
	for after := uint64(0); ; {
		part, err := inbox.List(after, maxAlarms)
		if err != nil || len(part) == 0 {
			return all, err
		}
		all = append(all, part...)
		all = all[max(0, len(all)-maxAlarms):]
		after = part[len(part)-1].Place
	}
}

// viewer is whose classification and acknowledgements a node shows: its own.
func (n *Node) viewer() model.SourceID { return report.SourceOf(n.ID.Member.Key[:]) }

// acknowledge records that somebody takes care of an alarm. Who works at a
// head-end, utility or substation acts as its control room; a household reads.
func (n *Node) acknowledge(prefix string) (string, error) {
	who := model.RoleSCADA
	if n.Config.Role == "gateway" {
		who = model.RoleUser
	}
	e, err := n.named(prefix)
	if err != nil {
		return "", err
	}
	id := e.ID()
	return hex.EncodeToString(id[:]), alarm.OpenInbox(n.Store).Acknowledge(n.viewer(), id, who, n.Clock.Now())
}

// named finds the one alarm whose id begins so.
func (n *Node) named(prefix string) (alarm.Event, error) {
	var hits []alarm.Event
	if len(prefix) >= 4 {
		var err error
		if hits, err = alarm.OpenInbox(n.Store).Find(prefix, maxAlarms); err != nil {
			return alarm.Event{}, err
		}
	}
	if len(hits) != 1 {
		return alarm.Event{}, fmt.Errorf("%d alarms begin with %q: give at least four digits that name one\nnext: `gridveil alarm list` shows them", len(hits), prefix)
	}
	return hits[0], nil
}

// shower is a role that knows what proves the events of others.
type shower interface {
	AlarmView(id alarm.ID) (v metering.View, ok bool, err error)
}

// alarmEvidence collects what proves an event to outsiders: of this node itself, or,
// at a head-end or utility, of a device that it serves.
func (n *Node) alarmEvidence(prefix string) (evidence.Raised, error) {
	e, err := n.named(prefix)
	if err != nil {
		return evidence.Raised{}, err
	}
	if r, ok := n.Role.(shower); ok {
		if v, ok, err := r.AlarmView(e.ID()); err != nil || ok {
			return evidence.RaisedFrom(v), err
		}
	}
	if e.Source != n.viewer() {
		return evidence.Raised{}, errors.New("this node holds the event and not the key of the device that raised it\nnext: ask the head-end by the same id")
	}
	raw, err := e.Encode()
	return evidence.Raised{Key: n.ID.Member.Key[:], Chain: n.Host.Chain(), Event: raw}, err
}
