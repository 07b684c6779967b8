package verifier

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/ledger/verifier"
)

// Verdict sums up a look at a log.
type Verdict string

// Verdicts, from the best to the worst.
const (
	Sound    Verdict = "sound"    // every entry obeys the rules, the quorum has signed
	Unlooked Verdict = "unlooked" // not looked yet
	Away     Verdict = "away"     // the log cannot be read, or nothing of it is final
	Unfinal  Verdict = "unfinal"  // the policy's quorum has not signed what is served
	Behind   Verdict = "behind"   // the log shows less than it did before
	Unsigned Verdict = "unsigned" // what is served there is not signed by the log of the policy
	Refused  Verdict = "refused"  // an entry breaks a rule
	Forked   Verdict = "forked"   // two histories, or a broken receipt
)

// Convicts reports whether the log is at fault, not the network or the wait.
func (v Verdict) Convicts() bool { return v == Unsigned || v == Refused || v == Forked }

// Report is what a look found. Times are UTC.
type Report struct {
	Origin  string    `json:"origin"`
	Log     string    `json:"log"`
	Verdict Verdict   `json:"verdict"`
	Text    string    `json:"text"`
	Looked  time.Time `json:"looked"`
	Checked time.Time `json:"checked"` // the last look that found the log sound
	// Entries, Root, State and LogTime describe our copy: replayed and durable.
	Entries uint64    `json:"entries"`
	Root    string    `json:"root"`  // hex
	State   string    `json:"state"` // hex, SHA-256 of the balances and everything else
	LogTime time.Time `json:"log_time"`
	// Served is the size of the newest checkpoint that the log itself showed.
	Served    uint64     `json:"served"`
	Cosigned  []Cosigned `json:"cosigned"` // of our newest checkpoint, without us
	Witnesses int        `json:"witnesses"`
	Final     bool       `json:"final"`            // they make the quorum
	Sealed    string     `json:"sealed,omitempty"` // origin of the log that goes on from this one
	Shards    []Shard    `json:"shards"`           // the sealed logs before this one, oldest first
	Entry     *BadEntry  `json:"bad_entry,omitempty"`
	Evidence  []File     `json:"evidence"`
	Peers     []Peer     `json:"peers"`
	Receipts  []Pledge   `json:"receipts,omitempty"`
	Failed    *Failure   `json:"last_failure,omitempty"`
	Key       string     `json:"key"` // of our own cosignature, for the line "witness" of a policy
}

// Shard is a sealed log of the ledger that was checked to its end. The one after
// it begins with that end.
type Shard struct {
	Origin  string    `json:"origin"`
	Entries uint64    `json:"entries"`
	Root    string    `json:"root"`             // hex
	Checked time.Time `json:"checked,omitzero"` // when its end was found sound and final
}

// String says what was checked.
func (x Shard) String() string {
	s := fmt.Sprintf("sealed, %d entries, root %s", x.Entries, x.Root)
	if !x.Checked.IsZero() {
		s += ", found sound to its end " + x.Checked.UTC().Format("2 Jan 2006 15:04:05") + " UTC"
	}
	return s
}

// Cosigned is one witness's signature under our newest checkpoint.
type Cosigned struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// BadEntry is the first entry that breaks a rule.
type BadEntry struct {
	Index uint64 `json:"index"`
	Leaf  string `json:"leaf"` // hex
	Code  uint16 `json:"code"`
	Text  string `json:"text"`
}

// File is evidence on disk, which `gridveil verify` judges.
type File struct {
	Name   string `json:"name"` // in the folder evidence
	Kind   string `json:"kind"`
	SHA256 string `json:"sha256"`
}

// Peer is another place that serves the log.
type Peer struct {
	Name   string    `json:"name,omitempty"` // of a witness of the policy
	URL    string    `json:"url"`
	Size   uint64    `json:"entries"`
	Signed time.Time `json:"signed,omitzero"` // of a witness: its newest signature
	Final  bool      `json:"final"`
	OK     bool      `json:"ok"`
	Text   string    `json:"text"`
}

// Pledge is a receipt that the log must keep.
type Pledge struct {
	Name  string `json:"name"`
	Index uint64 `json:"index"`
	OK    bool   `json:"ok"`
	Text  string `json:"text"`
}

// Failure is the last look that did not find the log sound.
type Failure struct {
	At      time.Time `json:"at"`
	Verdict Verdict   `json:"verdict"`
	Text    string    `json:"text"`
}

// judge gives the verdict over what the log showed.
func (w *Watch) judge(r *Report, note []byte, err error) {
	s := w.v.Status()
	var served ledger.Checkpoint
	if note != nil {
		served, _, _ = ledger.OpenCheckpoint(note, w.policy.Log)
	}
	before := r.Served
	r.Served = max(r.Served, served.Size)
	_, cosigners, opened := w.policy.Open(note)
	switch {
	case s.Evidence != nil:
		r.Verdict, r.Text = Forked, "The log is convicted of "+s.Evidence.Kind.String()+"."
	case s.Objection != nil:
		r.Entry = badEntry(s.Objection)
		r.Verdict, r.Text = Refused, fmt.Sprintf("Entry %d breaks a rule: %v.", r.Entry.Index, s.Objection.Code.Err())
	case note == nil && errors.Is(err, verifier.ErrAbsent):
		r.Verdict, r.Text = Away, "Nothing of the log is final yet."
	case note == nil:
		r.Verdict, r.Text = Away, "The log cannot be read: "+plain(err)+"."
	case served.Origin == "" && errors.Is(err, ledger.ErrSignature):
		r.Verdict, r.Text = Unsigned, "The log of the policy has not signed what is served there: compare the policy's log line with one from a party you trust."
	case err != nil && !errors.Is(err, ledger.ErrFork):
		r.Verdict, r.Text = Away, "The log could not be checked: "+plain(err)+"."
	case err != nil:
		r.Verdict, r.Text = Forked, "The log shows another history than before, and its tiles do not let us prove it: "+plain(err)+"."
	case opened != nil:
		r.Verdict, r.Text = Unfinal, "A cosignature on the checkpoint is wrong: "+plain(opened)+"."
	case !w.policy.Final(cosigners):
		r.Verdict, r.Text = Unfinal, fmt.Sprintf("%d entries obey the rules, but %d of %d witnesses have signed: not the policy's quorum.", s.Size, len(cosigners), len(w.cfg.Policy.Witnesses))
	case served.Size < before:
		r.Verdict, r.Text = Behind, fmt.Sprintf("The log shows %d entries and showed %d before. That is the same history, only older.", served.Size, before)
	default:
		r.Verdict, r.Text = Sound, fmt.Sprintf("All %d entries obey the rules, and %d of %d witnesses have signed them.", served.Size, len(cosigners), len(w.cfg.Policy.Witnesses))
	}
	if r.Verdict == Sound {
		next := ""
		w.v.Read(func(m ledger.Machine) { next = ledger.Sealed(m) })
		switch {
		case next != "":
			r.Text += " It is sealed; " + next + ", which goes on from it, is not served yet."
		case !w.arrived():
			r.Verdict, r.Text = Away, "The ledger does not lead to the log of the policy: "+r.Origin+" is not sealed."
		case len(r.Shards) > 0:
			r.Text += fmt.Sprintf(" So did all %d entries of the sealed logs before it.", sealedEntries(r.Shards))
		}
	}
	for _, p := range r.Receipts {
		if !p.OK && r.Verdict == Sound && strings.HasPrefix(p.Text, "broken") {
			r.Verdict, r.Text = Forked, fmt.Sprintf("The log does not hold what it gave a receipt for, at entry %d.", p.Index)
		}
	}
}

func sealedEntries(list []Shard) (n uint64) {
	for _, x := range list {
		n += x.Entries
	}
	return n
}

func badEntry(o *ledger.Objection) *BadEntry {
	return &BadEntry{Index: o.Index, Leaf: hex.EncodeToString(o.Leaf[:]), Code: uint16(o.Code), Text: o.Code.Err().Error()}
}

// fill describes our copy and writes the evidence out.
func (w *Watch) fill(r *Report) error {
	size, note := w.v.Cosigned()
	r.Entries = size
	r.Cosigned, r.Final, r.Witnesses = nil, false, len(w.cfg.Policy.Witnesses)
	if c, cosigners, err := w.policy.Open(note); err == nil {
		r.Root = hex.EncodeToString(c.Root[:])
		r.Final = w.policy.Final(cosigners)
		for _, x := range w.cfg.Policy.Witnesses {
			if at := signedAt(note, x.Key); !at.IsZero() {
				r.Cosigned = append(r.Cosigned, Cosigned{x.Name, at})
			}
		}
	}
	w.v.Read(func(m ledger.Machine) {
		h := m.Hash()
		r.Sealed = m.(*ledger.Money).State.Sealed()
		r.State, r.LogTime = hex.EncodeToString(h[:]), m.LogTime().UTC()
	})
	list, err := w.v.Held()
	if err != nil {
		return err
	}
	r.Evidence = nil
	for _, e := range list {
		b := e.Encode()
		sum := sha256.Sum256(b)
		f := File{Name: evidenceName(e), Kind: e.Kind.String(), SHA256: hex.EncodeToString(sum[:])}
		r.Evidence = append(r.Evidence, f)
		if err := durable.WriteFile(filepath.Join(w.cfg.Dir, watchEvidence, f.Name), b); err != nil {
			return err
		}
	}
	return nil
}

// evidenceName says what is in the file: E1-300.gvx is evidence of kind E1 whose
// checkpoint has 300 entries, E4-17.gvx of entry 17.
func evidenceName(e *ledger.Evidence) string {
	var n uint64
	switch e.Kind {
	case ledger.BadEntry:
		n = e.Objection.Index
	case ledger.BrokenPledge:
		n = e.Receipt.Index
	default:
		if parts := strings.SplitN(string(e.B), "\n", 3); len(parts) == 3 {
			return fmt.Sprintf("E%d-%s.gvx", e.Kind, parts[1])
		}
	}
	return fmt.Sprintf("E%d-%d.gvx", e.Kind, n)
}

// ErrNoEvidence means that no such evidence is held.
var ErrNoEvidence = errors.New("no such evidence is held")

// Evidence reads a file that the report lists.
func (w *Watch) Evidence(name string) ([]byte, error) {
	for _, f := range w.Report().Evidence {
		if f.Name == name {
			return os.ReadFile(filepath.Join(w.cfg.Dir, watchEvidence, f.Name))
		}
	}
	return nil, ErrNoEvidence
}

// EvidencePath is where a file that the report lists lies.
func (w *Watch) EvidencePath(name string) string {
	return filepath.Join(w.cfg.Dir, watchEvidence, name)
}

// signedAt is when a witness signed a checkpoint, zero if it did not.
func signedAt(note []byte, key ledger.VerifierKey) time.Time {
	_, n, err := ledger.OpenCheckpoint(note, key)
	if err != nil {
		return time.Time{}
	}
	for _, s := range n.Sigs {
		if at, err := ledger.CosignedAt(s); err == nil && s.Name == key.Name() && s.Hash == key.KeyHash() {
			return at
		}
	}
	return time.Time{}
}

// plain is an error in one line.
func plain(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
