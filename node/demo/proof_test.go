package demo

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"time"

	"gridveil/node/alarm"
	"gridveil/node/evidence"
	"gridveil/node/headend"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/utility"
)

// judged makes a file and judges it as an outsider who has the network's rules.
func (st *street) judged(f interface {
	File() ([]byte, evidence.Judgement, error)
}) evidence.Judgement {
	st.t.Helper()
	raw, _, err := f.File()
	if err != nil {
		st.t.Fatal(err)
	}
	j, err := evidence.Judge(bytes.NewReader(raw), st.Get("utility-a").Node().ID.Bundle)
	if err != nil {
		st.t.Fatal(err)
	}
	if j.Holder == nil || j.Holder.Role != "gateway" || !j.Holder.Covers {
		st.t.Errorf("whose key it is: %+v", j.Holder)
	}
	return j
}

// proved wants the reports of home-6 in a span, and its voltage alarm, to be proved to
// an outsider by the head-end, the home and the utility, from what each of them holds
// after a restart.
func (st *street) proved(from, to time.Time) {
	t := st.t
	t.Helper()
	st.restart("headend")
	st.restart("utility-a")
	head := func() *headend.Headend { return st.Get("headend").Node().Role.(*headend.Headend) }
	up, _ := st.u.PointOf(st.Get("home-6").Node().Host.Self().Key)
	held, err := head().Evidence(up, from, to)
	if err != nil {
		t.Fatal(err)
	}
	theirs := st.judged(held)
	read := map[int64]int64{} // by the end of the slot
	for _, r := range st.taken(st.Get("home-6"), to) {
		if r.Channel == model.ImportTotal {
			read[r.Slot+time.Minute.Milliseconds()] = r.Register
		}
	}
	for _, r := range theirs.Reports {
		for _, v := range r.Values {
			if want, ok := read[v.At.UnixMilli()]; v.Channel == "1-0:1.8.0" && (!ok || v.Value != want) {
				t.Errorf("proved %d mWh at %v, the meter showed %d", v.Value, v.At, want)
			}
		}
	}
	own := evidence.Reported{}
	st.until(patience, "the home has the acknowledgements", func() bool {
		own, err = st.home(6).Evidence(from, to)
		return err == nil && len(own.Reports) == len(held.Reports)
	})
	if mine := st.judged(own); !reflect.DeepEqual(mine.Reports, theirs.Reports) || theirs.Gaps != 0 {
		t.Errorf("the home proves %+v, the head-end %+v", mine.Reports, theirs.Reports)
	}
	if _, err := head().Evidence(model.UsagePoint{1}, from, to); err == nil {
		t.Error("evidence of a meter that is on no list")
	}
	if _, err := head().Evidence(up, Start.Add(-48*time.Hour), Start.Add(-24*time.Hour)); !errors.Is(err, evidence.ErrNone) {
		t.Errorf("before the first report: %v", err)
	}
	i := slices.IndexFunc(st.u.Alarms(), func(d utility.Delivery) bool { return d.Event.Kind == alarm.VoltageAbsent })
	id := st.u.Alarms()[i].ID
	for name, role := range map[string]interface {
		AlarmView(id alarm.ID) (metering.View, bool, error)
	}{"utility": st.u, "head-end": head()} {
		v, ok, err := role.AlarmView(id)
		if err != nil || !ok {
			t.Fatalf("%s: alarm %v, %v", name, ok, err)
		}
		if j := st.judged(evidence.RaisedFrom(v)); j.Event.Kind != "voltage absent" || j.Event.Sealed || j.Event.Detail == "" || !j.Event.Simulated {
			t.Errorf("%s: %+v", name, j.Event)
		}
	}
}
