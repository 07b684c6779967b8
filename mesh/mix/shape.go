package mix

import (
	"io"
	"slices"
	"time"

	"gridveil/mesh/packet"
)

// ReturnShare is the share of a leaf's slots that bring a packet back.
const ReturnShare = 0.7

// muchOwed is when a line is paid in the place of one that is owed less.
const muchOwed = 3

const relaysOfLoop = 3

// maxOwed bounds what one link may owe or be owed; a link that is down for long gathers no more.
const maxOwed = 64

// Pattern is what a slot shows on a leaf's links: the relay it sends to, and the
// one that brings a packet back, zero for none.
type Pattern struct{ First, Back packet.NodeKey }

// Shape keeps what a leaf's links show free of what it sends. Every slot draws a
// pattern, whatever goes in it. A loop or a drop can follow its pattern; a request
// has its own route and brings back as many packets as it has reply blocks. The
// difference is owed, and the cover that follows pays it, so that each link
// carries as many packets in each direction as were drawn for it. The zero value
// owes nothing.
type Shape struct {
	first, back map[packet.NodeKey]int // drawn for a link, less what went over it; zero entries are left out
	answers     []answerDue            // not yet subtracted from back, in no order
}

type answerDue struct {
	at   time.Time
	last packet.NodeKey
}

// Draw draws a slot's pattern: a uniform one of firsts and, in ReturnShare of the
// slots, a uniform one of the relays that backs allows behind it. Both must not be
// empty, else that part is zero.
func (s *Shape) Draw(firsts []packet.NodeKey, backs func(first packet.NodeKey) []packet.NodeKey, rnd io.Reader) (Pattern, error) {
	var p Pattern
	if len(firsts) == 0 {
		return p, nil
	}
	i, err := Below(len(firsts), rnd)
	if err != nil {
		return p, err
	}
	p.First = firsts[i]
	u, err := uniform(rnd)
	if err != nil || u > ReturnShare {
		return p, err
	}
	if allowed := backs(p.First); len(allowed) > 0 {
		if i, err = Below(len(allowed), rnd); err == nil {
			p.Back = allowed[i]
		}
	}
	return p, err
}

// Sent notes that the slot of a drawn pattern carried a packet of a request to first.
func (s *Shape) Sent(drawn Pattern, first packet.NodeKey) {
	owe(&s.first, drawn.First, 1)
	owe(&s.first, first, -1)
	owe(&s.back, drawn.Back, 1)
}

// AnswerHold is the mean hold at a relay for the i-th packet of an answer, from 0:
// later ones are held for longer, so that an answer does not come back in a burst.
func AnswerHold(hop time.Duration, i int) time.Duration { return hop + hop*time.Duration(i)/4 }

// CoverLead is how long before a packet of an answer of n arrives cover begins to
// leave room for it: a loop's way, and half of the time that n packets take up.
func CoverLead(hop, slot time.Duration, n int) time.Duration {
	return relaysOfLoop*hop + time.Duration(float64(n-1)*float64(slot)/(2*ReturnShare))
}

// Answer notes that a packet of an answer will come back by last. at is when cover
// should begin to leave room for it: CoverLead before its arrival.
func (s *Shape) Answer(last packet.NodeKey, at time.Time) {
	if len(s.answers) < packet.MaxOpenReplies {
		s.answers = append(s.answers, answerDue{at, last})
	}
}

// Cover turns a drawn pattern into what the slot's cover should do, paying what is
// owed. backs is as for Draw, firsts the relays that may be sent to now.
func (s *Shape) Cover(drawn Pattern, firsts []packet.NodeKey, backs func(first packet.NodeKey) []packet.NodeKey, now time.Time) Pattern {
	s.answers = slices.DeleteFunc(s.answers, func(a answerDue) bool {
		due := !now.Before(a.at)
		if due {
			owe(&s.back, a.last, -1)
		}
		return due
	})
	p := drawn
	if s.first[p.First] < 0 {
		p.First = s.creditor(s.first, firsts, p.First)
	}
	p.Back = s.coverBack(p.Back, backs(p.First))
	owe(&s.first, drawn.First, 1)
	owe(&s.first, p.First, -1)
	owe(&s.back, drawn.Back, 1)
	owe(&s.back, p.Back, -1)
	return p
}

// coverBack gives the relay that a cover packet comes back by, of those that are allowed, where drawn was drawn. How many
// packets come back is evened out before it is by which line: a burst on one shows as one on all.
func (s *Shape) coverBack(drawn packet.NodeKey, allowed []packet.NodeKey) packet.NodeKey {
	total := 0
	for _, owed := range s.back {
		total += owed
	}
	var none packet.NodeKey
	switch {
	case drawn == none && total <= 0, drawn != none && total < 0:
		return none
	case !slices.Contains(allowed, drawn):
		return s.creditor(s.back, allowed, none)
	}
	if best := s.creditor(s.back, allowed, drawn); s.back[drawn] < 0 || s.back[best] >= muchOwed {
		return best
	}
	return drawn
}

// creditor gives the one of nodes that is owed most, or otherwise.
func (s *Shape) creditor(owed map[packet.NodeKey]int, nodes []packet.NodeKey, otherwise packet.NodeKey) packet.NodeKey {
	best := 0
	for _, n := range nodes {
		if owed[n] > best {
			best, otherwise = owed[n], n
		}
	}
	return otherwise
}

// owe adds to what a link is owed; no link is owed nothing.
func owe(owed *map[packet.NodeKey]int, link packet.NodeKey, n int) {
	if link == (packet.NodeKey{}) {
		return
	}
	if *owed == nil {
		*owed = map[packet.NodeKey]int{}
	}
	sum := max(-maxOwed, min(maxOwed, (*owed)[link]+n))
	if sum == 0 {
		delete(*owed, link)
	} else {
		(*owed)[link] = sum
	}
}
