package ev

// Step advances a session by one input at now (UTC ms) and says what to do. An input that does not fit the state
// changes nothing and gives no output: stations repeat themselves, and messages come late. If anything changed, the
// first output is Store, and what follows may be done only after it is durable; after a crash, Outstanding repeats it.
func Step(s Session, in Input, now int64) (Session, []Output) {
	old := s
	m := machine{s: &s, now: now}
	m.handle(in)
	if !s.State.Final() {
		m.power()
	}
	if s == old && len(m.out) == 0 {
		return s, nil
	}
	return s, append([]Output{Store{s}}, m.out...)
}

// Outstanding returns what a restarted gateway does again, in case that it died between Store and the rest. Stations and
// the Host machine take repetitions.
func Outstanding(s Session) (out []Output) {
	switch {
	case s.State == Starting && s.StopFirst:
		out = append(out, StopTransaction{s.TransactionID})
	case s.State == Starting:
		out = append(out, StartTransaction{s.Code})
	case s.State.Running():
		out = append(out, SetPower{s.CommandW})
		if s.Stopping {
			out = append(out, StopTransaction{s.TransactionID})
		}
	}
	if s.Finished && s.Form == Idle {
		out = append(out, Finish{s.Energy, s.Shares})
	}
	return out
}

type machine struct {
	s   *Session
	now int64
	out []Output
}

func (m *machine) do(o Output) { m.out = append(m.out, o) }

func (m *machine) handle(in Input) {
	s := m.s
	switch in := in.(type) {
	case Event:
		m.event(in)
	case Open, Authorised, Declined, StartOwn, Timer:
		m.opening(in)
	case GuestSilent:
		m.hold(HoldAck, s.Payer == Guest)
	case GuestBack:
		m.hold(HoldAck, false)
	case GuestLeft:
		m.cut()
	case Locked:
		s.Locked = max(s.Locked, in.Value)
	case Power:
		m.measured(in.W)
	case Limit:
		s.LimitW = in.W
	case SoFar:
		m.metered(in)
	case Stop:
		m.stop()
	default:
		m.closing(in)
	}
}

// opening handles what happens before a transaction runs.
func (m *machine) opening(in Input) {
	s := m.s
	switch in := in.(type) {
	case Open:
		if s.State == Idle || s.State == Plugged || s.State == Opened && s.Band == 0 {
			s.State, s.Payer, s.Code, s.Rules, s.Reason = Opened, Guest, in.Code, in.Rules, ""
			s.Until = m.now + AnswerWait
		}
	case Authorised:
		if s.State == Opened && s.Payer == Guest {
			s.Band, s.Offline = in.Band, in.Trusted
			m.start()
		} else if s.Payer == Guest && s.Offline && !in.Trusted && !s.State.Final() {
			s.Offline, s.Band = false, max(s.Band, in.Band) // the answer came after all
		}
	case Declined:
		m.declined(in.Reason)
	case StartOwn:
		if s.State == Idle || s.State == Plugged || s.State == Opened {
			s.Code, s.Payer = in.Code, Own
			if in.Gift {
				s.Payer = Gift
			}
			m.start()
		}
	case Timer:
		m.timer()
	}
}

func (m *machine) stop() {
	if m.s.State.Running() {
		m.end()
		return
	}
	m.declined("stopped before the start")
}

// end tells the station to end the transaction; Ended will follow, perhaps much later.
func (m *machine) end() {
	m.s.Stopping = true
	m.do(StopTransaction{m.s.TransactionID})
}

// finish hands the guest's bill to the Host machine, once.
func (m *machine) finish() {
	m.s.Finished = true
	m.do(Finish{m.s.Energy, m.s.Shares})
}

func (m *machine) timer() {
	s := m.s
	if s.Until == 0 || m.now < s.Until {
		return
	}
	s.Until = 0
	switch {
	case s.State == Opened && s.Payer == Guest && s.Band == 0:
		m.offline()
	case s.State == Starting && s.Tries < startTries:
		m.try()
	case s.State == Starting:
		s.State, s.StopFirst = Opened, false
		s.Reason = "the wallbox did not start in three tries: check that the cable is plugged in at both ends, then start again"
	}
}

// offline applies the host's rule when no answer came.
func (m *machine) offline() {
	switch m.s.Rules.Offline {
	case OfflineGift:
		m.s.Payer, m.s.Offline = Gift, true
		m.start()
	case OfflineRefuse:
		m.declined("the aggregator cannot be reached and this host does not charge guests without it: try again later")
	case OfflineTrust:
		// The Host machine asks the wallet for its certificate; Authorised or Declined will follow.
		m.s.Reason = "the aggregator cannot be reached: confirm in the wallet that the host may see your utility"
	}
}

func (m *machine) declined(reason string) {
	s := m.s
	switch {
	case s.State == Opened || s.State == Starting:
		m.do(Refuse{reason})
		if s.StopFirst = false; s.Plugged {
			s.State = Plugged
		} else {
			s.State = Idle
		}
		s.Payer, s.Code, s.Band, s.Until, s.Reason = Own, "", 0, 0, reason
	case s.State.Running() && s.Payer == Guest && s.Offline:
		s.Disputed, s.Reason = true, reason
		m.end()
	}
}

// start begins our transaction, after ending one that already runs: only one started with the code is billable.
func (m *machine) start() {
	s := m.s
	s.State, s.Tries, s.Reason = Starting, 0, ""
	s.StopFirst = s.TransactionID != ""
	m.try()
}

func (m *machine) try() {
	s := m.s
	s.Tries++
	s.Until = m.now + startWait
	if s.StopFirst {
		m.do(StopTransaction{s.TransactionID})
		return
	}
	m.do(StartTransaction{s.Code})
}

func (m *machine) event(e Event) {
	switch e.Kind {
	case Status:
		m.status(e.State)
	case Started, Updated:
		m.started(e)
	case Ended:
		m.ended(e)
	}
	for _, r := range e.readings() {
		if r.HasPower {
			m.measured(r.PowerW)
		}
	}
}

// status follows the connector. Both versions of OCPP say Available when no car is there.
func (m *machine) status(state string) {
	s := m.s
	s.Faulted = state == "Faulted"
	switch state {
	case "Available":
		s.Plugged = false
		if s.State == Plugged {
			s.State = Idle
		}
	case "Preparing", "Occupied", "Charging", "SuspendedEV", "SuspendedEVSE", "Finishing":
		s.Plugged = true
		if s.State == Idle {
			s.State = Plugged
		}
	}
}

func (m *machine) started(e Event) {
	s := m.s
	switch {
	case s.State == Starting && !s.StopFirst && e.IDToken == s.Code && e.TransactionID != "":
		s.State, s.Until = Paused, 0
	case e.Kind == Started && (s.State == Idle || s.State == Plugged || s.State == Opened):
		// The car charges without us, such as with the host's own card. Ours may follow.
		s.TransactionID = e.TransactionID
		if s.State != Opened {
			s.State, s.Payer = Paused, Own
		} else {
			return
		}
	default:
		return
	}
	s.Plugged, s.TransactionID, s.StartedAt = true, e.TransactionID, e.At
	s.Commanded, s.Stopping = false, false
}

func (m *machine) ended(e Event) {
	s := m.s
	if s.TransactionID == "" || e.TransactionID != s.TransactionID {
		return
	}
	switch {
	case s.State == Starting && s.StopFirst:
		s.StopFirst, s.TransactionID, s.Tries = false, "", 0
		m.try()
	case s.State == Opened:
		s.TransactionID = ""
	case s.State.Running():
		s.State, s.EndedAt, s.PowerW, s.Until = EndedState, e.At, 0, 0
		if s.Form != Idle && s.Payer == Gift { // cut before, the rest was a gift
			s.State = s.Form
		}
	}
}

// measured moves the middle states: power does, not commands.
func (m *machine) measured(w int64) {
	s := m.s
	if !s.State.Running() {
		return
	}
	s.PowerW = w
	switch {
	case w > deadBandW:
		s.State = Charging
	case w < -deadBandW:
		s.State = Discharging
	default:
		s.State = Paused
	}
}

// metered takes the running bill, pauses at band and lock, and passes the bill on.
func (m *machine) metered(in SoFar) {
	s := m.s
	if !s.State.Running() || s.Payer != Guest {
		return
	}
	s.Energy, s.Shares = in.Energy, in.Shares.Cap(s.Band, s.Locked)
	m.hold(HoldBand, s.Hold&HoldBand != 0 || in.Shares.Total+s.Rules.Margin >= s.Band)
	m.hold(HoldLock, in.Shares.HostOwes > 0 && in.Shares.HostOwes+s.Rules.Margin >= s.Locked)
	m.do(Report{s.Energy, s.Shares})
}

func (m *machine) hold(h Hold, on bool) {
	if m.s.Hold &^= h; on && m.s.State.Running() {
		m.s.Hold |= h
	}
}

// cut gives the driver up.
func (m *machine) cut() {
	s := m.s
	if !s.State.Running() || s.Payer != Guest {
		return
	}
	s.Reason = "the wallet stayed away: the last acknowledged reading is settled"
	if s.Rules.OnCut == CutStop {
		m.end()
		return
	}
	s.Payer, s.Hold = Gift, 0
	m.finish()
}

// closing handles what follows the transaction.
func (m *machine) closing(in Input) {
	s := m.s
	switch in := in.(type) {
	case Billed:
		if s.State != EndedState || s.Finished {
			return
		}
		s.Energy, s.Shares = in.Energy, in.Shares.Cap(s.Band, s.Locked)
		if s.Payer != Guest {
			m.free()
			return
		}
		m.finish()
	case Unbillable:
		m.unbillable(in.Reason)
	case Recorded:
		if in.Form != Signed && in.Form != Cut && in.Form != UnattendedEnd || s.Form != Idle {
			return
		}
		if s.Form = in.Form; s.State == EndedState {
			s.State = in.Form
		}
	case Receipt:
		if s.State == Signed || s.State == Cut || s.State == UnattendedEnd {
			s.State = Receipted
		}
	case PaidOut:
		if s.State == Receipted {
			s.State = Paid
		}
	case Contested:
		s.Disputed = true
	}
}

func (m *machine) unbillable(reason string) {
	s := m.s
	switch {
	case s.Form != Idle:
	case s.State.Running() && s.Payer == Gift:
		// Nothing was acknowledged before the cut: the whole session is a gift.
		s.Energy, s.Shares, s.Finished = Energy{}, Shares{}, false
	case s.State == EndedState:
		s.Reason = reason
		finish := s.Payer == Guest && !s.Finished
		s.Energy = Energy{}
		if m.free(); finish {
			m.finish()
		}
	}
}

// free ends a session that nobody pays for.
func (m *machine) free() {
	if m.s.Shares = (Shares{}); m.s.Payer == Gift {
		m.s.State = GiftEnd
		return
	}
	m.s.State = Informational
}

// power orders the power that limits and holds allow, when it changed.
func (m *machine) power() {
	s := m.s
	if !s.State.Running() {
		return
	}
	w := s.LimitW
	if s.Stopping || s.Hold&(HoldAck|HoldBand) != 0 && w > 0 || s.Hold&(HoldAck|HoldLock) != 0 && w < 0 {
		w = 0
	}
	if w < 0 && (s.Payer == Gift || s.Payer == Guest && s.Locked == 0) {
		w = 0 // no lock, no sale
	}
	if w != s.CommandW || !s.Commanded {
		s.CommandW, s.Commanded = w, true
		m.do(SetPower{w})
	}
}
