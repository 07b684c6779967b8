package alarm

import (
	"errors"
	"fmt"

	"gridveil/node/model"
)

// Class is how a utility treats an event.
type Class uint8

// The classes. An ignored event is still stored.
const (
	ClassAlarm  Class = iota + 1 // someone acts
	ClassEvent                   // listed
	ClassIgnore                  // hidden by default
)

// String names the class.
func (c Class) String() string {
	return [...]string{"unset", "alarm", "event", "ignore"}[min(c, ClassIgnore)]
}

// Rule classifies events of one utility; zero fields match anything. The first
// matching rule counts.
type Rule struct {
	Kind     Kind
	Code     uint16
	Profile  uint8
	LeastCnt uint32 // only events that stand for at least this many
	Class    Class
	Severity uint8 // 1 (highest) to 4
}

// Rules are a utility's classification, in order. What no rule matches, and so
// everything under nil Rules, is an alarm if it is P0 or P1 and neither a
// warning nor a restoration, else an event.
type Rules []Rule

// ErrRules means a rule lacks a class or a severity.
var ErrRules = errors.New("alarm: invalid rule")

// Check validates rules before they are stored.
func (r Rules) Check() error {
	for i, x := range r {
		if x.Class < ClassAlarm || x.Class > ClassIgnore || x.Severity < 1 || x.Severity > 4 {
			return fmt.Errorf("%w: rule %d needs a class and a severity of 1 to 4", ErrRules, i+1)
		}
	}
	return nil
}

// View is one utility's look at an event.
type View struct {
	Event    ID
	Class    Class
	Severity uint8
	AckedBy  model.Role // RoleUnknown = not acknowledged
	AckedAt  int64      // UTC ms
}

// View classifies e.
func (r Rules) View(e Event) View {
	v := View{Event: e.ID(), Class: ClassEvent, Severity: uint8(e.Priority) + 1}
	for _, x := range r {
		if (x.Kind == 0 || x.Kind == e.Kind) && (x.Code == 0 || x.Code == e.Key.Code) &&
			(x.Profile == 0 || x.Profile == e.Key.Profile) && e.Count >= x.LeastCnt {
			v.Class, v.Severity = x.Class, x.Severity
			return v
		}
	}
	if e.Priority <= P1 && e.Flags&(Warning|Restored) == 0 {
		v.Class = ClassAlarm
	}
	return v
}
