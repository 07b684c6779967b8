package lane

// Pieces: how much one turn of the writer sends.
const (
	piece          = 16 << 10 // a lower lane waits for at most this much of a higher one
	contendedPiece = 2 << 10  // bulk's turn while alarms or requests wait: keeps its share smooth on slow links
	bulkShare      = 8        // bulk is owed 1 byte per 8 of others: 11 %, above the promised tenth
)

// Pace decides which lane writes next. It is pure: the caller tells which lanes have something to send and how much
// was sent. The zero value is ready.
type Pace struct {
	owed int // bytes that waiting bulk is owed for the traffic that overtook it
}

// Next picks the lane of the next piece and its largest length in bytes; ok is false when nothing waits.
// The lowest waiting lane goes first, except that bulk takes what it is owed.
func (p *Pace) Next(waiting [Lanes]bool) (l Lane, most int, ok bool) {
	others := waiting[Alarm] || waiting[Normal]
	switch {
	case waiting[Bulk] && (!others || p.owed > 0):
		l, most = Bulk, piece
		if others {
			most = contendedPiece
		}
		return l, most, true
	case waiting[Alarm]:
		return Alarm, piece, true
	case waiting[Normal]:
		return Normal, piece, true
	}
	return 0, 0, false
}

// Wrote records that n bytes of lane l left; bulkWaits says whether bulk could have been sent instead.
func (p *Pace) Wrote(l Lane, n int, bulkWaits bool) {
	switch {
	case l == Bulk:
		p.owed = max(p.owed-n, 0)
	case bulkWaits:
		p.owed += (n + bulkShare - 1) / bulkShare
	default:
		p.owed = 0 // nobody waits, nothing is owed
	}
}
