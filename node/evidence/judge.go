package evidence

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/report"
)

// Judgement is what a file shows by itself and, with a network's rules, by them.
type Judgement struct {
	Evidence string    `json:"evidence"`
	Key      string    `json:"key"`       // that signed
	Holder   *Holder   `json:"certified"` // whose key it is, by the network's certificate; null: not shown, or not looked at
	Shown    bool      `json:"certificate_shown"`
	Unsigned Unsigned  `json:"unsigned"`
	Reports  []Reading `json:"reports,omitempty"`
	// Gaps are numbers of the gateway's chain that the file leaves out between those that it has.
	Gaps  uint64 `json:"numbers_left_out"`
	Event *Raise `json:"event,omitempty"`
}

// Holder is what the network certified of a key.
type Holder struct {
	Network  string    `json:"network"`
	Role     string    `json:"role"`
	Operator string    `json:"operator"`
	Zone     string    `json:"zone,omitempty"`
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	// Covers says that the certificate was valid when all that the file shows was signed,
	// by the times that are signed. Else the key was certified at another time.
	Covers bool `json:"covers"`
}

// Judge says what a file proves. With rules of a network, which must come from
// somebody the reader trusts, it also says whose key signed; nil leaves that open.
//
// Its error wraps ErrEvidence and names the place that does not hold.
func Judge(file io.Reader, network *member.Bundle) (j Judgement, err error) {
	raw, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err != nil {
		return j, err
	}
	f, err := parse(raw)
	if err != nil {
		return j, err
	}
	key, err := hex.DecodeString(f.Key)
	if err != nil || len(key) != ed25519.PublicKeySize || hex.EncodeToString(key) != f.Key {
		return j, fmt.Errorf("%w: key: want 64 hexadecimal digits in lower case", ErrEvidence)
	}
	j = Judgement{Evidence: f.Evidence, Key: f.Key, Shown: len(f.Certificate) > 0, Unsigned: f.Unsigned}
	var first, last int64
	switch {
	case f.Evidence == KindReports && len(f.Reports) > 0 && f.Event == nil:
		first, last, err = j.reports(f.Reports, key)
	case f.Evidence == KindEvent && f.Event != nil && len(f.Reports) == 0:
		first, err = j.event(f.Event, key)
		last = first
	default:
		err = fmt.Errorf("%w: it is of kind %q and holds %d reports; this program knows %q and %q", ErrEvidence, f.Evidence, len(f.Reports), KindReports, KindEvent)
	}
	if err != nil {
		return j, err
	}
	if j.Holder, err = f.holder(key, network, first, last); err != nil {
		return j, err
	}
	// Last, because it names the place worst: spaces, order of fields, writing of numbers.
	again, err := f.encode()
	if err != nil {
		return j, err
	}
	if !bytes.Equal(again, raw) {
		at := 0
		for at < min(len(again), len(raw)) && again[at] == raw[at] {
			at++
		}
		return j, fmt.Errorf("%w: from byte %d on it is not written as gridveil writes it", ErrEvidence, at+1)
	}
	return j, nil
}

func parse(raw []byte) (f File, err error) {
	if len(raw) > MaxFile {
		return f, fmt.Errorf("%w: it has more than %d bytes", ErrEvidence, MaxFile)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("%w: after byte %d: %w", ErrEvidence, d.InputOffset(), err)
	}
	if f.Version != version {
		return f, fmt.Errorf("%w: it is of version %d, this program knows version %d", ErrEvidence, f.Version, version)
	}
	return f, nil
}

// reports checks each report and the chain that they are of. It gives the first and
// last instant that they speak of, UTC ms.
func (j *Judgement) reports(list []Report, key ed25519.PublicKey) (first, last int64, err error) {
	var before report.Header
	for i, r := range list {
		bad := func(what string, err error) (int64, int64, error) {
			if err != nil {
				what += ": " + err.Error()
			}
			return 0, 0, fmt.Errorf("%w: report %d of the file: %s", ErrEvidence, i+1, what)
		}
		e, err := report.DecodeEvidence(r.Signed)
		if err != nil {
			return bad("signed", err)
		}
		h := e.Header
		if err := h.Verify(key); err != nil {
			return bad("signed", errors.New("its signature is not of the file's key"))
		}
		shows, err := readingOf(e)
		if err != nil {
			return bad("signed", err)
		}
		if !reflect.DeepEqual(shows, r.Shows) {
			return bad("shows: this is not what was signed", nil)
		}
		if i > 0 {
			switch gap := h.Seq - before.Seq; {
			case h.Class != before.Class || h.Seq <= before.Seq || shows.Meter != list[0].Shows.Meter:
				return bad("it is of another meter or class than the one before it, or its number is not above that one's", nil)
			case gap == 1 && !shows.Restarted && h.Prev != before.Hash():
				return bad("it does not follow the one before it: the gateway signed two different reports with one number", nil)
			default:
				j.Gaps += gap - 1
			}
		}
		if i == 0 || h.From < first {
			first = h.From
		}
		before, last = h, max(last, h.End())
		j.Reports = append(j.Reports, shows)
	}
	return first, last, nil
}

// event checks an event and gives its time, UTC ms.
func (j *Judgement) event(e *Event, key ed25519.PublicKey) (at int64, err error) {
	shows, err := e.says()
	if err != nil {
		return 0, err
	}
	a, err := alarm.Decode(e.Signed)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	if a.Verify(key) != nil {
		return 0, fmt.Errorf("%w: signed: the event's signature is not of the file's key", ErrEvidence)
	}
	if !reflect.DeepEqual(shows, e.Shows) {
		return 0, fmt.Errorf("%w: shows: this is not what was signed", ErrEvidence)
	}
	j.Event = &shows
	return a.At, nil
}

// holder says whom the network certified. Without rules or certificate it is nil.
func (f File) holder(key ed25519.PublicKey, network *member.Bundle, first, last int64) (*Holder, error) {
	if len(f.Certificate) == 0 {
		return nil, nil
	}
	leaf, err := x509.ParseCertificate(f.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("%w: certificate: %w", ErrEvidence, err)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key) {
		return nil, fmt.Errorf("%w: certificate: it is of another key than the one that signed", ErrEvidence)
	}
	if network == nil {
		return nil, nil
	}
	from, until := leaf.NotBefore, leaf.NotAfter
	covers := first >= from.UnixMilli() && last <= until.UnixMilli()
	at := from // also of a certificate that has ended, or began later: whom it named then
	if covers {
		at = utc(last)
	}
	m, err := network.Verify(f.Certificate, at)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate: network %s: %w", ErrEvidence, network.Network, err)
	}
	if f.Evidence == KindReports && !slices.Contains([]member.Role{member.RoleGateway, member.RoleSSN}, m.Role) {
		return nil, fmt.Errorf("%w: certificate: the network certified the key as %s, which reports no meters", ErrEvidence, m.Role)
	}
	return &Holder{Network: network.Network.String(), Role: m.Role.String(), Operator: m.Operator, Zone: m.Zone, From: from.UTC(), Until: until.UTC(), Covers: covers}, nil
}
