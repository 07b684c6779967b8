package ocmf

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// DefaultAlgorithm is what SA means when it is absent.
const DefaultAlgorithm = "ECDSA-secp256r1-SHA256"

// Parse reads one record. It keeps raw: the result shares its bytes. Errors are ErrOCMF with record 0.
func Parse(raw []byte) (Record, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) > MaxRecord {
		return Record{}, refuse(TooLarge, 0)
	}
	rest, ok := bytes.CutPrefix(raw, []byte("OCMF|"))
	if !ok {
		return Record{}, refuse(looksLike(raw), 0)
	}
	cut := bytes.LastIndexByte(rest, '|')
	if cut < 0 {
		return Record{}, refuse(Syntax, 0)
	}
	r := Record{Raw: raw, Body: rest[:cut]}
	if len(bytes.TrimSpace(r.Body)) == 0 {
		return Record{}, refuse(BareHash, 0)
	}
	if err := r.parseSignature(rest[cut+1:]); err != nil {
		return Record{}, err
	}
	return r, r.parsePayload()
}

// looksLike tells a bare hash or signature from other text.
func looksLike(raw []byte) Reason {
	if _, err := hex.DecodeString(string(raw)); err == nil && len(raw) >= 40 {
		return BareHash
	}
	if bytes.Contains(raw, []byte(`"SD"`)) && !bytes.Contains(raw, []byte(`"RD"`)) {
		return BareHash
	}
	return Syntax
}

func (r *Record) parseSignature(b []byte) error {
	f, err := parseObject(b)
	if err != nil {
		return refuse(Syntax, 0)
	}
	var sd, se string
	r.SA = DefaultAlgorithm
	if f.text("SA", &r.SA) != nil || f.text("SD", &sd) != nil || f.text("SE", &se) != nil {
		return refuse(Syntax, 0)
	}
	switch se {
	case "", "hex":
		r.SD, err = hex.DecodeString(sd)
	case "base64":
		r.SD, err = base64.StdEncoding.DecodeString(sd)
	default:
		return refuse(Algorithm, 0)
	}
	if err != nil || len(r.SD) == 0 {
		return refuse(Syntax, 0)
	}
	return nil
}

func (r *Record) parsePayload() error {
	f, err := parseObject(r.Body)
	if err != nil {
		return refuse(Syntax, 0)
	}
	p := &r.Payload
	var page string
	err = errors.Join(f.text("FV", &p.FV), f.text("GI", &p.GI), f.text("GS", &p.GS), f.text("GV", &p.GV),
		f.text("PG", &page), f.text("MV", &p.MV), f.text("MM", &p.MM), f.text("MS", &p.MS), f.text("MF", &p.MF),
		f.text("IL", &p.IL), f.text("IT", &p.IT), f.text("ID", &p.ID), f.text("CT", &p.CT), f.text("CI", &p.CI),
		f.value("IS", &p.IS), f.value("IF", &p.IF))
	var readings [][]byte
	if raw := f.get("RD"); raw != nil && err == nil {
		readings, err = array(raw)
	}
	if err != nil || len(readings) > maxRD {
		return refuse(Syntax, 0)
	}
	if p.PG, err = parsePage(page); err != nil {
		return refuse(Pagination, 0)
	}
	var last Reading
	for _, raw := range readings {
		if last, err = parseReading(raw, last); err != nil {
			return err
		}
		p.RD = append(p.RD, last)
	}
	return nil
}

// parseReading reads one RD entry; fields that it leaves out are those of the entry before.
func parseReading(raw []byte, before Reading) (Reading, error) {
	f, err := object(raw)
	if err != nil {
		return Reading{}, refuse(Syntax, 0)
	}
	rd := before
	rd.Value = ""
	var tm, tx string
	err = errors.Join(f.text("TM", &tm), f.text("TX", &tx), f.text("RI", &rd.RI), f.text("RU", &rd.RU),
		f.text("RT", &rd.RT), f.text("EF", &rd.EF), f.text("ST", &rd.ST), f.number("RV", &rd.Value))
	if err != nil || len(tx) > 1 {
		return Reading{}, refuse(Syntax, 0)
	}
	if tx != "" {
		rd.TX = tx[0]
	}
	if tm != "" {
		if rd.At, rd.Sync, err = parseTime(tm); err != nil {
			return Reading{}, refuse(TimeFormat, 0)
		}
	} else if rd.Sync == 0 {
		return Reading{}, refuse(TimeFormat, 0)
	}
	return rd, nil
}

// parseTime reads "2018-07-24T13:22:04,000+0200 S": always milliseconds, a numeric zone and a status letter.
func parseTime(s string) (at int64, status byte, err error) {
	stamp, state, ok := strings.Cut(s, " ")
	if !ok || len(state) != 1 || !strings.Contains("UISR", state) {
		return 0, 0, refuse(TimeFormat, 0)
	}
	t, err := time.Parse("2006-01-02T15:04:05.000-0700", strings.Replace(stamp, ",", ".", 1))
	if err != nil {
		return 0, 0, err
	}
	return t.UnixMilli(), state[0], nil
}

func parsePage(s string) (Page, error) {
	if len(s) < 2 || s[0] != 'T' && s[0] != 'F' || s[1] == '+' {
		return Page{}, refuse(Pagination, 0)
	}
	n, err := strconv.ParseUint(s[1:], 10, 64)
	return Page{s[0], n}, err
}

// String writes the page as PG does.
func (p Page) String() string { return fmt.Sprintf("%c%d", p.Context, p.Number) }
