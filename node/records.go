package node

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"gridveil/ev/ocmf"
)

// SignedRecords is what a file of signed meter records shows.
type SignedRecords struct {
	Confirmed bool            `json:"confirmed"` // the key was given, not taken from the file
	Values    []SignedRecord  `json:"values"`
	Charged   []SignedSession `json:"charged"` // transactions whose records verify
}

// SignedRecord is one record of a file.
type SignedRecord struct {
	Transaction string    `json:"transaction,omitempty"`
	Meter       string    `json:"meter,omitempty"` // serial
	Page        string    `json:"page,omitempty"`
	From        time.Time `json:"from,omitzero"` // of the first reading
	To          time.Time `json:"to,omitzero"`   // of the last one
	Key         string    `json:"key,omitempty"` // first eight bytes of its hash, as pages show it
	OK          bool      `json:"ok"`
	Verdict     string    `json:"verdict"`
}

// SignedSession is what the records of one transaction prove.
type SignedSession struct {
	Transaction string `json:"transaction,omitempty"`
	ImportMWh   int64  `json:"import_mwh"`
	ExportMWh   int64  `json:"export_mwh"`
	Billable    bool   `json:"billable"`
	Verdict     string `json:"verdict"`
}

// Sound reports whether every record of the file verifies.
func (s SignedRecords) Sound() bool {
	for _, v := range s.Values {
		if !v.OK {
			return false
		}
	}
	return true
}

// IsSignedRecords reports whether a file may hold signed meter records: an XML file
// of the transparency software, or an OCMF record.
func IsSignedRecords(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 64)
	n, _ := io.ReadFull(f, head) // a short file is one too
	head = bytes.TrimLeft(bytes.TrimPrefix(head[:n], []byte("\xef\xbb\xbf")), " \t\r\n")
	return bytes.HasPrefix(head, []byte("<")) || bytes.HasPrefix(head, []byte("OCMF|"))
}

// VerifyRecords judges the signed meter records of a file: the XML file that
// stations and portals hand to customers, or one OCMF record as text. keyText is
// the key on the meter's label; empty takes the one that came with each record,
// which vouches for itself only. Its error says that the file holds no records.
func VerifyRecords(file, keyText string) (s SignedRecords, err error) {
	list, err := readRecords(file)
	if err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	var given ocmf.PublicKey
	if s.Confirmed = keyText != ""; s.Confirmed {
		if given, err = ocmf.ParseKey(keyText); err != nil {
			return s, fmt.Errorf("the meter's key: %w", err)
		}
	}
	sessions := map[string]*transaction{}
	var order []*transaction
	for _, e := range list {
		key := given
		var bad error
		if !s.Confirmed {
			key, bad = ocmf.ParseKey(e.Key)
		}
		v := judgeRecord(e, key, bad)
		s.Values = append(s.Values, v)
		t := sessions[e.TransactionID]
		if t == nil {
			t = &transaction{id: e.TransactionID, key: key, ok: true}
			sessions[t.id] = t
			order = append(order, t)
		}
		t.ok = t.ok && v.OK && t.key.Hash() == key.Hash()
		t.records = append(t.records, e.Record)
	}
	for _, t := range order {
		if t.ok {
			s.Charged = append(s.Charged, t.judge())
		}
	}
	return s, nil
}

func readRecords(file string) ([]ocmf.Entry, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, ocmf.MaxContainer+1))
	if err != nil {
		return nil, err
	}
	if text := bytes.TrimSpace(raw); bytes.HasPrefix(text, []byte("OCMF|")) {
		return []ocmf.Entry{{Format: "OCMF", Record: text}}, nil
	}
	return ocmf.ParseContainer(raw)
}

// judgeRecord verifies one record; bad is why its key cannot be read.
func judgeRecord(e ocmf.Entry, key ocmf.PublicKey, bad error) SignedRecord {
	v := SignedRecord{Transaction: e.TransactionID}
	if e.Format != "" && !strings.EqualFold(e.Format, "OCMF") {
		v.Verdict = fmt.Sprintf("format %q is not read here; a program of its maker judges it", e.Format)
		return v
	}
	r, err := ocmf.Parse(e.Record)
	if err != nil {
		v.Verdict = err.Error()
		return v
	}
	v.Meter, v.Page = r.Meter(), r.PG.String()
	if n := len(r.RD); n > 0 {
		v.From, v.To = time.UnixMilli(r.RD[0].At).UTC(), time.UnixMilli(r.RD[n-1].At).UTC()
	}
	if bad != nil {
		v.Verdict = "no key came with it: give the one on the meter's label with --meter-key"
		return v
	}
	hash := key.Hash()
	v.Key = hex.EncodeToString(hash[:8])
	if err := r.Verify(key); err != nil {
		v.Verdict = err.Error()
		return v
	}
	v.OK, v.Verdict = true, "signature verifies"
	return v
}

// transaction is the records of one charging session.
type transaction struct {
	id      string
	key     ocmf.PublicKey
	ok      bool // all of them verify, under one key
	records [][]byte
}

// judge says what the records prove.
func (t *transaction) judge() SignedSession {
	out := SignedSession{Transaction: t.id}
	got, err := ocmf.Check(t.records, t.key, "")
	var refused *ocmf.ErrOCMF
	switch {
	case errors.As(err, &refused):
		out.Verdict = "proves no energy that can be billed: " + refused.Error()
	case err != nil:
		out.Verdict = err.Error()
	default:
		out.ImportMWh, out.ExportMWh, out.Billable, out.Verdict = got.ImportMWh, got.ExportMWh, true, "begin and end belong together"
	}
	return out
}
