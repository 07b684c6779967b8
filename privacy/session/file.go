package session

import (
	"fmt"

	"gridveil/privacy"
	"gridveil/privacy/pseudo"
)

// File is what an aggregator can show of a session that it authorised: its part
// of the file of a ledgered case. The bill key is for the driver's utility
// alone; openers get the rest.
type File struct {
	Cert   pseudo.Cert
	BPK    [32]byte
	Offer  Offer
	Open   Open
	Answer Answer // its yes
}

// File reads an authorised session. It returns ErrUnknown.
func (s *Settler) File(name [32]byte) (File, error) {
	a, err := s.session(name)
	if err != nil {
		return File{}, err
	}
	ans, err := ParseAnswer(a.Answer)
	if err != nil {
		return File{}, fmt.Errorf("stored answer: %w", err)
	}
	return File{Cert: a.Box.Cert, BPK: a.Box.BPK, Offer: a.Offer, Open: a.Open, Answer: ans}, nil
}

// Check verifies that the parts belong together: the certificate's key opened
// this session at this offer, and the aggregator with record key evagg said yes.
// Certificate and case are for the caller to check.
func (f *File) Check(net privacy.Net, evagg [32]byte) error {
	if f.Open.SPK != f.Cert.SPK() || f.Open.Offer != f.Offer.Hash(net) || !f.Answer.OK || f.Answer.Session != f.Open.Hash(net) {
		return fmt.Errorf("case file: %w", ErrMismatch)
	}
	if err := f.Open.verify(net); err != nil {
		return fmt.Errorf("case file: %w", err)
	}
	if err := f.Offer.verify(net); err != nil {
		return fmt.Errorf("case file: %w", err)
	}
	return f.Answer.verify(net, evagg)
}

// CheckRecord verifies that a record closes the session of the file: signed by
// its host and, unless the driver left, by its driver.
func (f *File) CheckRecord(net privacy.Net, r *Record) error {
	if r.Open != f.Answer.Session || r.Offer != f.Open.Offer {
		return fmt.Errorf("record of the case: %w", ErrMismatch)
	}
	if err := r.verifyHost(net, f.Offer.HPK); err != nil || r.Form != Both {
		return err
	}
	return r.verifyDriver(net, f.Open.SPK)
}
