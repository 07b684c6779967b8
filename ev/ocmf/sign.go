package ocmf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// wire types fix the order of the members that Sign writes.
type wirePayload struct {
	FV, GI, GS, GV, PG string
	MV, MM, MS, MF     string `json:",omitempty"`
	IS                 bool
	IL                 string   `json:",omitempty"`
	IF                 []string `json:",omitempty"`
	IT, ID             string
	CT, CI             string `json:",omitempty"`
	RD                 []wireReading
}

type wireReading struct {
	TM string
	TX string `json:",omitempty"`
	RV json.Number
	RI string
	RU string
	RT string `json:",omitempty"`
	EF string
	ST string
}

// Sign writes the record of a simulated meter: payload as JSON, then an ECDSA signature over P-256 and SHA-256 with
// the deterministic nonce of RFC 6979, so that equal input gives equal bytes. RD values must be JSON numbers.
func Sign(key *ecdsa.PrivateKey, p Payload) ([]byte, error) {
	w := wirePayload{FV: p.FV, GI: p.GI, GS: p.GS, GV: p.GV, PG: p.PG.String(), MV: p.MV, MM: p.MM, MS: p.MS, MF: p.MF,
		IS: p.IS, IL: p.IL, IF: p.IF, IT: p.IT, ID: p.ID, CT: p.CT, CI: p.CI}
	for _, rd := range p.RD {
		x := wireReading{TM: formatTime(rd.At, rd.Sync), RV: json.Number(rd.Value), RI: rd.RI, RU: rd.RU, RT: rd.RT,
			EF: rd.EF, ST: rd.ST}
		if rd.TX != 0 {
			x.TX = string(rd.TX)
		}
		w.RD = append(w.RD, x)
	}
	body, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("ocmf: write payload: %w", err)
	}
	digest := sha256.Sum256(body)
	sig, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("ocmf: sign: %w", err)
	}
	return fmt.Appendf(nil, `OCMF|%s|{"SA":%q,"SD":%q}`, body, DefaultAlgorithm, hex.EncodeToString(sig)), nil
}

// FormatEnergy writes mWh as an RV in kWh with six decimals.
func FormatEnergy(mwh int64) string { return fmt.Sprintf("%d.%06d", mwh/1e6, mwh%1e6) }

func formatTime(at int64, status byte) string {
	t := time.UnixMilli(at).UTC()
	return fmt.Sprintf("%s,%03d+0000 %c", t.Format("2006-01-02T15:04:05"), t.Nanosecond()/1e6, status)
}
