package utility

import (
	"context"
	"time"

	"gridveil/mesh"
	"gridveil/node/alarm"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/report"
)

// maxDelivered bounds the list of newest deliveries for the page.
const maxDelivered = 1000

// Delivery is an alarm as it reached this utility.
type Delivery struct {
	ID         alarm.ID
	UsagePoint model.UsagePoint
	Event      alarm.Event
	Detail     string
	At         time.Time // here
	Class      alarm.Class
}

// takeAlarm keeps an event that a head-end shows, once, classified by this
// utility's own rules.
func (u *Utility) takeAlarm(_ context.Context, _ mesh.Member, req []byte) ([]byte, error) {
	v, e, err := metering.ParseView(req)
	if err != nil {
		return nil, err
	}
	if err := e.Verify(v.Source[:]); err != nil {
		return nil, err
	}
	fresh, err := u.inbox.Take(e, [16]byte(v.UsagePoint))
	if err != nil {
		return nil, &mesh.BusyError{After: time.Second}
	}
	if !fresh {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	id := e.ID()
	u.delivered[id] = Delivery{ID: id, UsagePoint: v.UsagePoint, Event: e, Detail: v.Detail, At: u.env.Clock.Now(), Class: u.rules.View(e).Class}
	u.order = append(u.order, id)
	if len(u.order) > maxDelivered {
		delete(u.delivered, u.order[0])
		u.order = u.order[1:]
	}
	u.env.Log.Info("alarm received", "kind", e.Kind.String(), "priority", int(e.Priority))
	return nil, nil
}

// Alarms are the newest deliveries since the start, newest first.
func (u *Utility) Alarms() []Delivery {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]Delivery, 0, len(u.order))
	for i := len(u.order) - 1; i >= 0; i-- {
		out = append(out, u.delivered[u.order[i]])
	}
	return out
}

// Acknowledge notes that a role of this utility took care of an event.
func (u *Utility) Acknowledge(id alarm.ID, by model.Role) error {
	self := u.env.Host.Self()
	return u.inbox.Acknowledge(report.SourceOf(self.Key[:]), id, by, u.env.Clock.Now())
}
