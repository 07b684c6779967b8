package committee

import (
	"encoding/binary"
	"fmt"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// Statement is a driver's word in a case about one of its certificates, signed
// by the certificate's session key and sent by onion: it admits or contests
// without being named.
type Statement struct {
	Case   [16]byte
	Ref    [32]byte
	Admits bool
	Reason uint16 // reason codes of the ledger's dispute entry; 0 if none
	Sig    privacy.Signature
}

// StatementSize is the length of an encoded statement.
const StatementSize = 2 + 16 + 32 + 1 + 2 + 64

func (s *Statement) body() []byte {
	b := append([]byte{byte(privacy.KindStatement), privacy.Version}, s.Case[:]...)
	b = append(b, s.Ref[:]...)
	if s.Admits {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return binary.BigEndian.AppendUint16(b, s.Reason)
}

// NewStatement signs with the pseudonym used in the session.
func NewStatement(net privacy.Net, p *pseudo.Pseudonym, caseID [16]byte, admits bool, reason uint16) Statement {
	s := Statement{Case: caseID, Ref: p.Cert.Ref(), Admits: admits, Reason: reason}
	s.Sig = privacy.Sign(p.SSK, privacy.KindStatement, net, s.body())
	return s
}

// Verify reports whether the statement is signed by the session key of c and
// names c's ref.
func (s *Statement) Verify(net privacy.Net, c *pseudo.Cert) bool {
	spk := c.SPK()
	return s.Ref == c.Ref() && privacy.Verify(spk[:], privacy.KindStatement, net, s.body(), s.Sig)
}

// Bytes encodes the statement.
func (s *Statement) Bytes() []byte { return append(s.body(), s.Sig[:]...) }

// ParseStatement is the inverse of Bytes.
func ParseStatement(b []byte) (Statement, error) {
	if len(b) != StatementSize || b[0] != byte(privacy.KindStatement) || b[1] != privacy.Version || b[50] > 1 {
		return Statement{}, fmt.Errorf("statement: %w", ErrEncoding)
	}
	return Statement{Case: [16]byte(b[2:]), Ref: [32]byte(b[18:]), Admits: b[50] == 1,
		Reason: binary.BigEndian.Uint16(b[51:]), Sig: privacy.Signature(b[53:])}, nil
}
