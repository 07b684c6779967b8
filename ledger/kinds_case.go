package ledger

// MaxRefs is the most sessions that one dispute may name.
const MaxRefs = 8

// CaseID is chosen at random by the requester.
type CaseID [16]byte

// CaseKind says what a dispute asks for.
type CaseKind uint8

// Kinds of disputes.
const (
	CaseHold CaseKind = 1 // freeze the money, reveal nothing
	CaseLink CaseKind = 2 // do these sessions belong to one contract?
	CaseOpen CaseKind = 3 // which contract is it?
)

// Reason says why a case is opened.
type Reason uint16

// Reasons of disputes. Safety needs two more approvals and no notice.
const (
	ReasonSafety  Reason = 1 // danger to people or the grid
	ReasonBilling Reason = 2 // amount contested
	ReasonPayment Reason = 3 // payer refuses the line
	ReasonMeter   Reason = 4 // meter reading contested
	ReasonLawful  Reason = 5 // lawful order
)

// Dispute opens a case over sessions or meter pseudonyms.
type Dispute struct {
	Case     CaseID
	Asks     CaseKind
	Reason   Reason
	Utility  PartyID // payer of the refs that are CDRs; it answers
	Evidence Hash    // salted hash of the case file
	Refs     []Hash  // 1..8, distinct
}

// Approve is the vote of one approver.
type Approve struct {
	Case CaseID
	Yes  bool
}

// Partial commits to an approver's opening share, sealed to the utility.
type Partial struct {
	Case CaseID
	CT   Hash
}

// Result commits to the utility's answer, sealed to the requester.
type Result struct {
	Case   CaseID
	Answer Hash
}

// End closes a case.
type End struct {
	Case    CaseID
	Outcome Outcome
}

// Outcome says what happens to the frozen sessions of a case.
type Outcome uint8

// Outcomes of a case.
const (
	Release Outcome = 1 // by the requester: sessions are settled after all
	Expire  Outcome = 2 // by anyone after Params.CaseMs: the same
	Cancel  Outcome = 3 // by the aggregator: sessions are gone
)

// Kind implements Body.
func (*Dispute) Kind() Kind { return KindDispute }
func (*Approve) Kind() Kind { return KindApprove }
func (*Partial) Kind() Kind { return KindPartial }
func (*Result) Kind() Kind  { return KindResult }
func (*End) Kind() Kind     { return KindEnd }

func (r *decoder) caseID() (c CaseID) {
	copy(c[:], r.take(len(c)))
	return c
}

func (d *Dispute) put(w *encoder) {
	w.raw(d.Case[:])
	w.u8(uint8(d.Asks))
	w.u16(uint16(d.Reason))
	w.u32(uint32(d.Utility))
	w.h32(d.Evidence)
	w.u8(uint8(len(d.Refs)))
	for _, ref := range d.Refs {
		w.h32(ref)
	}
}

func getDispute(r *decoder) Body {
	d := &Dispute{Case: r.caseID(), Asks: CaseKind(r.enum(uint8(CaseOpen))), Reason: Reason(r.u16()),
		Utility: PartyID(r.u32()), Evidence: r.h32()}
	n := int(r.u8())
	r.want(n >= 1 && n <= MaxRefs && d.Reason != 0)
	for i := 0; i < n && !r.bad; i++ {
		ref := r.h32()
		for _, other := range d.Refs {
			r.want(ref != other)
		}
		d.Refs = append(d.Refs, ref)
	}
	return d
}

func (a *Approve) put(w *encoder) {
	w.raw(a.Case[:])
	w.bool(a.Yes)
}

func getApprove(r *decoder) Body { return &Approve{Case: r.caseID(), Yes: r.bool()} }

func (p *Partial) put(w *encoder) {
	w.raw(p.Case[:])
	w.h32(p.CT)
}

func getPartial(r *decoder) Body { return &Partial{Case: r.caseID(), CT: r.h32()} }

func (v *Result) put(w *encoder) {
	w.raw(v.Case[:])
	w.h32(v.Answer)
}

func getResult(r *decoder) Body { return &Result{Case: r.caseID(), Answer: r.h32()} }

func (d *End) put(w *encoder) {
	w.raw(d.Case[:])
	w.u8(uint8(d.Outcome))
}

func getEnd(r *decoder) Body {
	return &End{Case: r.caseID(), Outcome: Outcome(r.enum(uint8(Cancel)))}
}
