package ask

import (
	"encoding/binary"
	"fmt"

	"gridveil/mesh/member"
	"gridveil/node/keys"
	"gridveil/privacy/pseudo"
)

// Escrow finds who issues day identities to the meters of an operator: the
// utility of another operator, so that nobody who bills a home knows under which
// identity it reports. Its Issuer is the escrow key.
func (o Operators) Escrow(own string) (Utility, error) {
	now := o.Env.Clock.Now()
	for _, h := range o.Env.Dir.All(member.RoleUtility, "") {
		if h.Member.Operator == own {
			continue
		}
		issuer, ok1 := h.Sheet.At(keys.Escrow, now)
		issue, ok2 := h.Sheet.At(keys.Issue, now)
		if ok1 && ok2 && len(issuer) == 32 {
			return Utility{Key: h.Member.Key, ID: o.Env.Operator(h.Member.Operator), Issuer: [32]byte(issuer), Issue: issue}, nil
		}
	}
	return Utility{}, fmt.Errorf("escrow, a utility of another operator: %w", ErrNoOperator)
}

// Escrows are the keys under which utilities sign day identities of meters, of
// every period that their sheets name.
func (o Operators) Escrows() pseudo.IssuerKeys { return o.issuers(keys.Escrow) }

func (o Operators) issuers(use keys.Use) pseudo.IssuerKeys {
	out := pseudo.IssuerKeys{}
	for _, h := range o.Env.Dir.All(member.RoleUtility, "") {
		for _, k := range h.Sheet {
			if k.Use == use && len(k.Public) == 32 {
				_ = out.Add(o.Env.Operator(h.Member.Operator), [32]byte(k.Public)) // a key that no issuer may have is none
			}
		}
	}
	return out
}

// MeterBatch asks the escrow for a week of day identities: the home's own
// certificate, which the escrow cannot look up, and the sealed request.
type MeterBatch struct {
	Chain [][]byte // leaf first, DER
	Box   []byte
}

// Limits of a meter batch, beside those of a certificate chain.
const maxBatchBox = 8 << 10 // seven keys make 2 kB

// Bytes gives n u8 | n x { length u16 | certificate } | box.
func (m MeterBatch) Bytes() []byte {
	b := []byte{byte(len(m.Chain))}
	for _, der := range m.Chain {
		b = binary.BigEndian.AppendUint16(b, uint16(len(der)))
		b = append(b, der...)
	}
	return append(b, m.Box...)
}

// ParseMeterBatch is the inverse of Bytes.
func ParseMeterBatch(b []byte) (MeterBatch, error) {
	var m MeterBatch
	if len(b) < 1 || b[0] == 0 || b[0] > member.MaxChain {
		return m, fmt.Errorf("%w: meter batch of %d bytes", ErrBody, len(b))
	}
	n, b := int(b[0]), b[1:]
	for range n {
		if len(b) < 2 {
			return m, fmt.Errorf("%w: certificate is cut off", ErrBody)
		}
		size := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; size == 0 || size > member.MaxCertificate || len(b) < size {
			return m, fmt.Errorf("%w: certificate is cut off", ErrBody)
		}
		m.Chain, b = append(m.Chain, append([]byte{}, b[:size]...)), b[size:]
	}
	if len(b) == 0 || len(b) > maxBatchBox {
		return m, fmt.Errorf("%w: meter batch with a box of %d bytes", ErrBody, len(b))
	}
	m.Box = append([]byte{}, b...)
	return m, nil
}
