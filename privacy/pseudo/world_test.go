package pseudo

import (
	"crypto/ed25519"
	"io"
	"testing"
	"time"

	"gridveil/privacy"
	"gridveil/privacy/internal/curve"
)

var (
	testNet  = privacy.Net{'p', 's', 'e', 'u', 'd', 'o', '0', '1'}
	monday   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	now      = monday.Add(30 * time.Hour)
	evagg    = [16]byte{'e', 'v', 'a', 'g', 'g'}
	utb      = [16]byte{'u', 't', 'b'}
	contract = [16]byte{'c', 'o', 'n', 't', 'r', 'a', 'c', 't'}
	meter    = [16]byte{'m', 'e', 't', 'e', 'r'}
)

func seeded(label string) io.Reader {
	return privacy.SeededReader("gridveil/test/pseudo/", []byte(label))
}

// memoryBook is an issuer's store in a map.
type memoryBook struct {
	contracts map[[16]byte]Contract
	batches   map[[36]byte]Batch
	rows      map[[32]byte]BillRow
}

func (b *memoryBook) Contract(h [16]byte) (Contract, bool) { c, ok := b.contracts[h]; return c, ok }

func (b *memoryBook) Batch(h [16]byte, epoch uint32, audience [16]byte) (Batch, bool) {
	x, ok := b.batches[batchKey(h, epoch, audience)]
	return x, ok
}

func (b *memoryBook) HasBillKey(bpk [32]byte) bool { _, ok := b.rows[bpk]; return ok }

func (b *memoryBook) store(i *Issued) {
	b.batches[batchKey(i.Contract, i.Epoch, i.Audience)] = i.Batch
	for _, r := range i.Rows {
		b.rows[r.BPK] = r
	}
}

func batchKey(h [16]byte, epoch uint32, audience [16]byte) (k [36]byte) {
	copy(k[:], h[:])
	copy(k[16:], audience[:])
	k[32], k[33], k[34], k[35] = byte(epoch>>24), byte(epoch>>16), byte(epoch>>8), byte(epoch)
	return k
}

// world is one utility with a driver's contract and a meter.
type world struct {
	issuer Issuer
	book   *memoryBook
	driver Profile
	meter  Profile
	keys   IssuerKeys
	y      [32]byte // committee secret, for the judge
}

func newWorld(t testing.TB) *world {
	t.Helper()
	key, err := privacy.NewKey(seeded("issuer"))
	if err != nil {
		t.Fatal(err)
	}
	lk, err := privacy.NewKey(seeded("contract"))
	if err != nil {
		t.Fatal(err)
	}
	lfid, err := privacy.NewKey(seeded("lfid"))
	if err != nil {
		t.Fatal(err)
	}
	box, err := privacy.NewBoxKey(seeded("issue box"), privacy.SuiteX25519)
	if err != nil {
		t.Fatal(err)
	}
	y, err := curve.Scalar(seeded("committee"))
	if err != nil {
		t.Fatal(err)
	}
	pub := [32]byte(key.Public().(ed25519.PublicKey))
	book := &memoryBook{contracts: map[[16]byte]Contract{
		contract: {Kind: Driver, LK: [32]byte(lk.Public().(ed25519.PublicKey)), Arg: 40, Deck: 16, Active: true},
		meter:    {Kind: Meter, LK: [32]byte(lfid.Public().(ed25519.PublicKey)), Arg: 3, Deck: MeterDeck, Active: true},
	}, batches: map[[36]byte]Batch{}, rows: map[[32]byte]BillRow{}}
	driver := Profile{Net: testNet, Kind: Driver, Contract: contract, LK: lk, Arg: 40, Deck: 16, Issuer: utb, IssuerKey: pub,
		Suite: privacy.SuiteX25519, IssueBox: box.Pub}
	home := driver
	home.Kind, home.Contract, home.LK, home.Arg, home.Deck = Meter, meter, lfid, 3, MeterDeck
	keys := IssuerKeys{}
	if err := keys.Add(utb, pub); err != nil {
		t.Fatal(err)
	}
	return &world{book: book, driver: driver, meter: home, keys: keys, y: curve.ScalarBytes(y),
		issuer: Issuer{Net: testNet, ID: utb, Key: key, Box: box, Committee: curve.Bytes(curve.MulBase(y)), Book: book}}
}

func (w *world) mustBatch(t testing.TB, p Profile, label string, epoch uint32) *Pending {
	t.Helper()
	b, err := NewBatch(seeded(label), p, evagg, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) mustIssue(t testing.TB, p Profile, b *Pending) *Issued {
	t.Helper()
	out, err := w.issuer.Issue(seeded("issue"), p.reqKind(), b.Box, now)
	if err != nil {
		t.Fatal(err)
	}
	w.book.store(out)
	return out
}

func (w *world) mustDeck(t testing.TB, p Profile, label string, epoch uint32) *Deck {
	t.Helper()
	b := w.mustBatch(t, p, label, epoch)
	d, err := b.Finish(p, w.mustIssue(t, p, b).Batch.Answer)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// sealed makes a request by hand, so that tests can bend it.
func (w *world) sealed(t testing.TB, p Profile, bend func(*batchReq)) []byte {
	t.Helper()
	req := &batchReq{kind: p.reqKind(), contract: p.Contract, epoch: Week(now), audience: evagg, items: make([]batchItem, p.Deck)}
	if p.Kind == Meter {
		req.epoch = Week(now) * MeterDeck
	}
	rnd := seeded("bent")
	for i := range req.items {
		var k keySet
		if err := k.draw(rnd, p.Kind); err != nil {
			t.Fatal(err)
		}
		req.items[i] = batchItem{spk: k.spk(), bpk: k.bpk(), bsalt: k.bsalt}
	}
	bend(req)
	for i := range req.items {
		it := &req.items[i]
		if it.enrol != (privacy.Signature{}) {
			continue
		}
		h := head{kind: p.Kind, arg: p.Arg, issuer: p.Issuer, audience: req.audience, epoch: epochOf(p.Kind, req.epoch, i),
			keyID: privacy.KeyID(privacy.UsePseudonym, p.IssuerKey[:]), spk: it.spk}
		if p.Kind == Driver {
			h.bcom = BillCommitment(it.bpk, it.bsalt)
		}
		c := h.cert()
		it.enrol = privacy.Sign(p.LK, privacy.KindEnrol, p.Net, c.head())
	}
	body := req.body()
	sig := privacy.Sign(p.LK, req.kind, p.Net, body)
	box, _, err := privacy.Seal(seeded("bent box"), p.Suite, p.IssueBox, req.kind, p.Net, append(body, sig[:]...))
	if err != nil {
		t.Fatal(err)
	}
	return box
}
