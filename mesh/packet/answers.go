package packet

import "time"

// Limits of a recipient's memory of answers.
const (
	MaxAnswers = 4096
	AnswerLife = 30 * time.Minute // three tries of class meter; after that services deduplicate by record id
)

// Answers remembers what was answered to which request, so that a retry by
// another route has no second effect. The zero value is ready. When it is full
// the oldest answer goes. Not safe for concurrent use.
type Answers struct {
	Lag time.Duration // added to AnswerLife: what a busy machine on a fast clock needs; 0 on the wall clock

	byID  map[[16]byte]answer
	order []answerAge // oldest first
}

type answer struct {
	body  []byte
	until time.Time
	done  bool
}

type answerAge struct {
	id    [16]byte
	until time.Time
}

// Begin asks whether request id is new. fresh: handle it, then call Finish.
// Otherwise body is the earlier answer; done is false while it is being made,
// and then the retry is dropped.
func (a *Answers) Begin(id [16]byte, now time.Time) (fresh bool, body []byte, done bool) {
	a.expire(now)
	if held, known := a.byID[id]; known {
		return false, held.body, held.done
	}
	if len(a.order) >= MaxAnswers {
		a.dropOldest()
	}
	if a.byID == nil {
		a.byID = map[[16]byte]answer{}
	}
	until := now.Add(AnswerLife + a.Lag)
	a.byID[id] = answer{until: until}
	a.order = append(a.order, answerAge{id, until})
	return true, nil, false
}

// Finish stores the answer to a request that Begin called fresh.
func (a *Answers) Finish(id [16]byte, body []byte) {
	if held, known := a.byID[id]; known {
		a.byID[id] = answer{body, held.until, true}
	}
}

// Forget lets a retry be handled anew, because handling it failed without effect.
func (a *Answers) Forget(id [16]byte) { delete(a.byID, id) }

func (a *Answers) expire(now time.Time) {
	for len(a.order) > 0 && !now.Before(a.order[0].until) {
		a.dropOldest()
	}
}

// dropOldest removes the head of the queue, unless its id was forgotten and began again later.
func (a *Answers) dropOldest() {
	head := a.order[0]
	a.order = a.order[1:]
	if a.byID[head.id].until.Equal(head.until) {
		delete(a.byID, head.id)
	}
}
