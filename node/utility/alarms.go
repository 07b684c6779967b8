package utility

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh"
	"gridveil/node/alarm"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
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
	View       metering.View // as the head-end showed it
}

// takeAlarm keeps an event that a head-end of this operator shows, once,
// classified by this utility's own rules.
func (u *Utility) takeAlarm(_ context.Context, from mesh.Member, req []byte) ([]byte, error) {
	if from.Operator != u.env.Host.Self().Operator {
		return nil, errors.New("alarms are taken from the own operator's head-end only")
	}
	v, e, err := metering.ParseView(req)
	if err != nil {
		return nil, err
	}
	if err := e.Verify(v.Source[:]); err != nil {
		return nil, err
	}
	now := u.env.Clock.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	fresh, place := false, u.places+1
	err = u.env.Store.Update(func(tx *store.Tx) (err error) {
		if fresh, err = u.inbox.TakeTx(tx, e, [16]byte(v.UsagePoint)); err != nil || !fresh {
			return err
		}
		if place > maxDelivered {
			if err := tx.Delete(deliveryKey(place - maxDelivered)); err != nil {
				return err
			}
		}
		return tx.Set(deliveryKey(place), append(store.U64(uint64(now.UnixMilli())), req...))
	})
	if err != nil {
		return nil, &mesh.BusyError{After: time.Second}
	}
	if fresh {
		u.places = place
		u.list(v, e, now)
		u.env.Log.Info("alarm received", "kind", e.Kind.String(), "priority", int(e.Priority))
	}
	return nil, nil
}

// list adds a delivery to the newest ones. The caller holds mu.
func (u *Utility) list(v metering.View, e alarm.Event, at time.Time) {
	u.delivered = append(u.delivered, Delivery{ID: e.ID(), UsagePoint: v.UsagePoint, Event: e, Detail: v.Detail, At: at, Class: u.rules.View(e).Class, View: v})
	u.delivered = u.delivered[max(0, len(u.delivered)-maxDelivered):]
}

func deliveryKey(place uint64) []byte {
	return store.SpaceView.Key([]byte("delivered"), store.U64(place))
}

// loadAlarms reads the deliveries of earlier runs.
func (u *Utility) loadAlarms() error {
	prefix := store.SpaceView.Key([]byte("delivered"))
	return u.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(k, b []byte) error {
			if len(k) != len(prefix)+8 || len(b) < 8 {
				return fmt.Errorf("%w: delivered alarm of %d bytes", store.ErrDamaged, len(b))
			}
			v, e, err := metering.ParseView(b[8:])
			if err != nil {
				return fmt.Errorf("%w: %w", store.ErrDamaged, err)
			}
			u.places = binary.BigEndian.Uint64(k[len(prefix):])
			u.list(v, e, time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC())
			return nil
		})
	})
}

// Alarms are the newest deliveries, newest first.
func (u *Utility) Alarms() []Delivery {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make([]Delivery, 0, len(u.delivered))
	for i := len(u.delivered) - 1; i >= 0; i-- {
		out = append(out, u.delivered[i])
	}
	return out
}

// AlarmView gives a delivery with what proves it; ok is false for one that is not
// among the newest.
func (u *Utility) AlarmView(id alarm.ID) (v metering.View, ok bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, d := range u.delivered {
		if d.ID == id {
			return d.View, true, nil
		}
	}
	return v, false, nil
}

// Acknowledge notes that a role of this utility took care of an event.
func (u *Utility) Acknowledge(id alarm.ID, by model.Role) error {
	self := u.env.Host.Self()
	return u.inbox.Acknowledge(report.SourceOf(self.Key[:]), id, by, u.env.Clock.Now())
}
