package session

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"gridveil/privacy"
	"gridveil/privacy/commit"
	"gridveil/privacy/internal/golden"
	"gridveil/privacy/note"
	"gridveil/privacy/pseudo"
)

var vectorNet = privacy.Net{'v', 'e', 'c', 't', 'o', 'r'}

func vectorKey(t testing.TB, name string) ed25519.PrivateKey {
	t.Helper()
	k, err := privacy.NewKey(privacy.SeededReader("session vector ", []byte(name)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func fill[T ~[]byte](b T, with byte) T {
	for i := range b {
		b[i] = with
	}
	return b
}

// sample is one message of each kind, all of one session.
type sample struct {
	offer   Offer
	open    Open
	box     boxed
	req     AuthReq
	yes, no Answer
	inner   inner
	tick    Tick
	ack     Ack
	record  Record
	stub    stub
	both    Settle
	cut     Settle
	shown   Settle
	close   Close
	receipt Receipt
	opening Opening
	collect Collect
	paid    Collected
	lock    Lock
	line    Line
	batch   BillBatch
	reject  LineReject
	ask     Ask
	cert    Shown
	booked  Settled
	shares  Shares
}

func newSample(t testing.TB) *sample {
	t.Helper()
	host, driver, bill, evagg, utility := vectorKey(t, "host"), vectorKey(t, "driver"), vectorKey(t, "bill"), vectorKey(t, "evagg"), vectorKey(t, "utility")
	s := &sample{}
	s.offer = Offer{HPK: pub(host), PassKey: [8]byte{1}, MeterCommit: [32]byte{2}, Terms: [32]byte{3}, PGrid: 320_000, PRes: 180_000, POut: 260_000,
		Currency: 978, MaxPower: 110, Mode: ModeShown | ModeDischarge, Expires: 1_772_625_600}
	s.offer.Sig = privacy.Sign(host, privacy.KindOffer, vectorNet, s.offer.body())
	s.box = boxed{Cert: pseudo.Cert(append([]byte("GVP1\x01\x01\x00\x28"), fill(make([]byte, 364), 7)...)), BPK: pub(bill), BSalt: [16]byte{4}, Nonce: [16]byte{5}}
	auth := billAuth{EVAGG: [16]byte{6}, Epoch: 2931, Band: 20, Nonce: s.box.Nonce}
	s.box.Sig = privacy.Sign(bill, privacy.KindBillAuth, vectorNet, auth.body())
	s.open = Open{Offer: s.offer.Hash(vectorNet), SPK: pub(driver), EVAGG: [16]byte{6}, Band: 20, Box: [32]byte{8}}
	s.open.Sig = privacy.Sign(driver, privacy.KindOpen, vectorNet, s.open.body())
	name := s.open.Hash(vectorNet)
	s.req = AuthReq{Offer: s.offer, Band: 20, OpenSig: s.open.Sig, Box: fill(make([]byte, BoxSize), 9), Pass: [PassSize]byte{10}}
	s.yes = Answer{OK: true, Session: name, Band: 20, Expires: 1_772_712_000, Inner: fill(make([]byte, innerBox), 11)}
	s.yes.Sig = privacy.Sign(evagg, privacy.KindAuthOK, vectorNet, s.yes.body())
	s.no = Answer{Session: [32]byte{12}, Reason: ReasonRefused, Inner: fill(make([]byte, innerBox), 13)}
	s.no.Sig = privacy.Sign(evagg, privacy.KindAuthNo, vectorNet, s.no.body())
	s.inner = inner{Cause: CauseLimit, Session: name, Band: 20, Expires: 7, Fee: FeeTerms{1, 2, 3, [32]byte{4}}}
	s.tick = Tick{Seq: 1, Energy: Energy{Grid: 100_000, Res: 2, Out: 3}, Cum: 30_000, Prev: name}
	s.tick.Sig = privacy.Sign(host, privacy.KindTick, vectorNet, s.tick.body())
	s.ack = Ack{Tick: s.tick.Hash(vectorNet)}
	s.ack.Sig = privacy.Sign(driver, privacy.KindAck, vectorNet, s.ack.body())
	s.ends(t, host, driver, bill)
	s.after(t, host, evagg, utility)
	return s
}

func (s *sample) ends(t testing.TB, host, driver, bill ed25519.PrivateKey) {
	t.Helper()
	ev := &Evidence{Salt: [32]byte{14}, MeterSalt: [32]byte{15}, MeterKey: []byte("key"), Terms: []byte("terms"), Records: [][]byte{[]byte("OCMF|a|b"), []byte("OCMF|c|d")}}
	s.record = Record{Offer: s.open.Offer, Open: s.open.Hash(vectorNet), T0: 1_969_584, T1: 1_969_586, Energy: s.tick.Energy,
		Amounts: Amounts{Owed: 10_000, Grid: -20_000, Driver: 30_000}, Currency: 978, Form: Both, LastTick: s.ack.Tick, Evidence: ev.Hash()}
	s.record.HostSig = privacy.Sign(host, privacy.KindRecord, vectorNet, s.record.body())
	s.close = Close{Record: s.record, Evidence: ev}
	s.record.DriverSig = privacy.Sign(driver, privacy.KindRecord, vectorNet, s.record.body())
	s.stub = stub{BPK: s.box.BPK, EVAGG: s.open.EVAGG, Epoch: 2931, In: 100_000, Total: 30_000, Currency: 978, AuthNonce: s.box.Nonce}
	s.stub.Sig = privacy.Sign(bill, privacy.KindStub, vectorNet, s.stub.body())
	s.both = Settle{Record: s.record, Stub: fill(make([]byte, StubBoxSize), 16)}
	cut := s.record
	cut.Form, cut.DriverSig = Cut, privacy.Signature{}
	cut.HostSig = privacy.Sign(host, privacy.KindRecord, vectorNet, cut.body())
	s.cut = Settle{Record: cut, Tick: &s.tick, Ack: &s.ack}
	alone := cut
	alone.Form = Unattended
	s.shown = Settle{Record: alone, Evidence: ev}
	s.line = Line{BPK: s.box.BPK, Form: Signed, EVAGG: s.stub.EVAGG, Epoch: s.stub.Epoch, In: s.stub.In, Total: s.stub.Total, Currency: 978, AuthNonce: s.stub.AuthNonce, Sig: s.stub.Sig}
}

func (s *sample) after(t testing.TB, host, evagg, utility ed25519.PrivateKey) {
	t.Helper()
	s.receipt = Receipt{Taken: TakenRecord, Session: s.record.Open, What: s.record.Hash(vectorNet), Value: 1_700_000, Inner: fill(make([]byte, openingBox), 17)}
	s.receipt.Sig = privacy.Sign(evagg, privacy.KindReceipt, vectorNet, s.receipt.body())
	s.opening = Opening{Record: s.receipt.What, Salt: [32]byte{18}, Values: commit.Values{Pay: 1, Earn: 2, GridPay: -3, Energy: 4}, Blind: [32]byte{19}}
	s.collect = Collect{Session: s.record.Open, Party: PartyHost, Epoch: 202603, Row: note.Row{{20}, {21}}}
	s.collect.Sign(vectorNet, host)
	s.shares = Shares{Session: s.record.Open, List: []Share{{Instruction: [32]byte{26}, Delivered: 1_900_000, Permille: 950, Paid: 380_000, Size: 3, Index: 1,
		Root: [32]byte{31}, Salt: [32]byte{27}, Path: [][32]byte{{28}, {29}}, Payment: []byte("entry and proof")}, {Instruction: [32]byte{30}, Size: 1}}}
	s.paid = Collected{Request: s.collect.Hash(vectorNet), Row: note.Row{{22}}, Issue: 23, Salt: [32]byte{24}, Proof: fill(make([]byte, 96), 25)}
	s.lock = Lock{Session: s.record.Open, Value: 1_700_000, Currency: 978, Payment: note.Payment{Salt: [32]byte{26}, Notes: make([]note.Spent, 2)}}
	s.lock.Sig = privacy.Sign(host, privacy.KindLock, vectorNet, s.lock.body())
	other := s.line
	other.BPK[0] ^= 1
	other.Form, other.Band = Mandate, 40
	batch, err := NewBillBatch(vectorNet, evagg, s.open.EVAGG, 978, [32]byte{27}, []Line{s.line, other})
	if err != nil {
		t.Fatal(err)
	}
	s.batch = batch
	s.reject = LineReject{Line: s.line.Hash(), Code: RejectLimit}
	s.reject.Sig = privacy.Sign(utility, privacy.KindLineReject, vectorNet, s.reject.body())
	s.ask = Ask{Session: s.record.Open, Limit: 10}
	s.cert = Shown{Session: s.record.Open, Cert: s.box.Cert}
	s.booked = Settled{Session: s.record.Open, Ref: [32]byte{1}, Payer: [16]byte{2}, Values: s.opening.Values, Host: 3, Change: 4, Driver: 5, Currency: 978, Direct: true, Line: s.line}
}

// codec is one message with the function that reads it back.
type codec struct {
	name  string
	bytes []byte
	size  int // 0: varies
	again func([]byte) ([]byte, error)
}

func again[T any](parse func([]byte) (T, error), encode func(*T) []byte) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		return encode(&v), nil
	}
}

func parseReq(b []byte) (AuthReq, error) { return ParseAuthReq(b, privacy.SuiteX25519) }

func (s *sample) codecs() []codec {
	return []codec{
		{"offer", s.offer.Bytes(), 191, again(ParseOffer, (*Offer).Bytes)},
		{"open", s.open.Bytes(), 180, again(ParseOpen, (*Open).Bytes)},
		{"box", s.box.bytes(), 502, again(parseBoxed, (*boxed).bytes)},
		{"authreq", s.req.Bytes(), 1073, again(parseReq, (*AuthReq).Bytes)},
		{"yes", s.yes.Bytes(), AnswerSize, again(ParseAnswer, (*Answer).Bytes)},
		{"no", s.no.Bytes(), AnswerSize, again(ParseAnswer, (*Answer).Bytes)},
		{"inner", s.inner.bytes(), 0, again(parseInner, (*inner).bytes)},
		{"tick", s.tick.Bytes(), 134, again(ParseTick, (*Tick).Bytes)},
		{"ack", s.ack.Bytes(), 98, again(ParseAck, (*Ack).Bytes)},
		{"record", s.record.Bytes(), 325, again(ParseRecord, (*Record).Bytes)},
		{"close", s.close.Bytes(), 0, again(ParseClose, (*Close).Bytes)},
		{"stub", s.stub.bytes(), 160, again(parseStub, (*stub).bytes)},
		{"settle", s.both.Bytes(), RecordSize + StubBoxSize + 1, again(ParseSettle, (*Settle).Bytes)},
		{"settle-cut", s.cut.Bytes(), RecordSize + TickSize + AckSize - 4 + 1, again(ParseSettle, (*Settle).Bytes)},
		{"settle-shown", s.shown.Bytes(), 0, again(ParseSettle, (*Settle).Bytes)},
		{"receipt", s.receipt.Bytes(), ReceiptSize, again(ParseReceipt, (*Receipt).Bytes)},
		{"opening", s.opening.bytes(), 0, again(parseOpening, (*Opening).bytes)},
		{"collect", s.collect.Bytes(), CollectSize, again(ParseCollect, (*Collect).Bytes)},
		{"collected", s.paid.Bytes(), 0, again(ParseCollected, (*Collected).Bytes)},
		{"lock", s.lock.Bytes(), 0, again(ParseLock, (*Lock).Bytes)},
		{"line", s.line.Bytes(), 161, again(ParseLine, (*Line).Bytes)},
		{"batch", s.batch.Bytes(), 0, again(ParseBillBatch, (*BillBatch).Bytes)},
		{"reject", s.reject.Bytes(), RejectSize, again(ParseLineReject, (*LineReject).Bytes)},
		{"ask", s.ask.Bytes(), AskSize, again(ParseAsk, (*Ask).Bytes)},
		{"shown", s.cert.Bytes(), ShownSize, again(ParseShown, (*Shown).Bytes)},
		{"booked", s.booked.Bytes(), 0, again(ParseSettled, (*Settled).Bytes)},
		{"shares", s.shares.Bytes(), 0, again(ParseShares, (*Shares).Bytes)},
	}
}

func TestMessagesHaveTheirSizesAndOneEncoding(t *testing.T) {
	for _, c := range newSample(t).codecs() {
		t.Run(c.name, func(t *testing.T) {
			if c.size != 0 && len(c.bytes) != c.size {
				t.Errorf("size: got %d, want %d", len(c.bytes), c.size)
			}
			got, err := c.again(c.bytes)
			if err != nil || !bytes.Equal(got, c.bytes) {
				t.Fatalf("read back: %v", err)
			}
			for name, b := range map[string][]byte{"short": c.bytes[:len(c.bytes)-1], "long": append(bytes.Clone(c.bytes), 0), "nothing": nil} {
				if _, err := c.again(b); !errors.Is(err, ErrMalformed) {
					t.Errorf("%s: got %v, want ErrMalformed", name, err)
				}
			}
		})
	}
	if cap := MaxEvidence + RecordSize + StubBoxSize; cap > 11<<10+512 {
		t.Errorf("a settle with shown evidence may have %d bytes, an onion request holds 11.5 kB", cap)
	}
	if n := 2 + 32 + 8 + 2 + 32 + 1 + MaxLocked*spentSize + 64; n > 11<<10+512 {
		t.Errorf("a lock may have %d bytes, an onion request holds 11.5 kB", n)
	}
}

func TestVectors(t *testing.T) {
	var lines []golden.Line
	s := newSample(t)
	for _, c := range s.codecs() {
		lines = append(lines, golden.Line{Name: c.name, Value: c.bytes})
	}
	offer, open, record := s.offer.Hash(vectorNet), s.open.Hash(vectorNet), s.record.Hash(vectorNet)
	lines = append(lines, golden.Line{Name: "hash-offer", Value: offer[:]}, golden.Line{Name: "hash-open", Value: open[:]},
		golden.Line{Name: "hash-record", Value: record[:]}, golden.Line{Name: "code", Value: []byte(Code(s.open.SPK, s.offer.HPK))})
	golden.Check(t, "messages", lines...)
}

func TestRangesAreRefused(t *testing.T) {
	s := newSample(t)
	for name, b := range map[string][]byte{
		"unknown mode":       func() []byte { o := s.offer; o.Mode = 8; return o.Bytes() }(),
		"band that is none":  func() []byte { o := s.open; o.Band = 30; return o.Bytes() }(),
		"negative energy":    func() []byte { x := s.tick; x.Energy.Grid = -1; return x.Bytes() }(),
		"energy of a town":   func() []byte { x := s.tick; x.Energy.Out = MaxEnergy + 1; return x.Bytes() }(),
		"negative total":     func() []byte { x := s.tick; x.Cum = -1; return x.Bytes() }(),
		"end before begin":   func() []byte { r := s.record; r.T1 = r.T0 - 1; return r.Bytes() }(),
		"form that is none":  func() []byte { r := s.record; r.Form = 4; return r.Bytes() }(),
		"cut signed by both": func() []byte { r := s.record; r.Form = Cut; return r.Bytes() }(),
		"no with an expiry":  func() []byte { a := s.no; a.Expires = 1; return a.Bytes() }(),
		"no without reason":  func() []byte { a := s.no; a.Reason = 0; return a.Bytes() }(),
		"signed with a band": func() []byte { l := s.line; l.Band = 20; return l.Bytes() }(),
		"unsorted batch":     func() []byte { b := s.batch; b.Lines = []Line{b.Lines[1], b.Lines[0]}; return b.Bytes() }(),
		"batch with repeats": func() []byte { b := s.batch; b.Lines = []Line{b.Lines[0], b.Lines[0]}; return b.Bytes() }(),
		"batch of nothing":   func() []byte { b := s.batch; b.Lines = nil; return b.Bytes() }(),
	} {
		for _, c := range s.codecs() {
			if got, err := c.again(b); err == nil {
				t.Errorf("%s: %s took it (%d bytes)", name, c.name, len(got))
			}
		}
	}
}

func TestCodeIsWhatTheMeterSigns(t *testing.T) {
	c := Code([32]byte{1}, [32]byte{2})
	if len(c) != 16 || c == Code([32]byte{2}, [32]byte{1}) {
		t.Errorf("code: got %q", c)
	}
}

func TestRoundEnergy(t *testing.T) {
	for in, want := range map[int64]int64{0: 0, 49_999: 0, 50_000: 100_000, 7_345_000: 7_300_000, 7_350_000: 7_400_000} {
		if got := RoundEnergy(in); got != want {
			t.Errorf("RoundEnergy(%d): got %d, want %d", in, got, want)
		}
	}
}

func FuzzDecoders(f *testing.F) {
	codecs := newSample(f).codecs()
	for _, c := range codecs {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range codecs {
			if got, err := c.again(b); err == nil && !bytes.Equal(got, b) {
				t.Errorf("%s: encode(decode(b)) is not b", c.name)
			}
		}
		if a, err := parseAdmitted(b); err == nil && !bytes.Equal(a.bytes(), b) {
			t.Error("stored session: encode(decode(b)) is not b")
		}
	})
}
