package keys

import (
	"bytes"
	"slices"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
)

// sheetLife is how long a published sheet is valid; it is renewed daily.
const sheetLife = 7 * 24 * time.Hour

// Directory reads the sheets that members published.
type Directory struct{ Host *mesh.Host }

// Holder is a member with its sheet.
type Holder struct {
	Member mesh.Member
	Sheet  Sheet
}

// Publish makes sheet known to the network.
func (d Directory) Publish(s Sheet, now time.Time) error {
	b, err := s.Encode()
	if err != nil {
		return err
	}
	return d.Host.Publish(gossip.KindDirectory, gossip.KeySheet, b, now.Add(sheetLife))
}

// All lists the members of a role that published a sheet, of one operator or,
// with "", of any; ordered by key, so that every node sees one order.
func (d Directory) All(role member.Role, operator string) []Holder {
	var out []Holder
	for _, e := range d.Host.Registers(gossip.KindDirectory) {
		if e.Key != gossip.KeySheet {
			continue
		}
		m, err := d.Host.Publisher(e)
		if err != nil || m.Role != role || operator != "" && m.Operator != operator {
			continue // expired, revoked or somebody else: not usable now
		}
		s, err := ParseSheet(e.Body)
		if err != nil {
			continue // the publisher's fault; it counts as having no sheet
		}
		out = append(out, Holder{m, s})
	}
	sortHolders(out)
	return out
}

// One is the first of All.
func (d Directory) One(role member.Role, operator string) (Holder, bool) {
	all := d.All(role, operator)
	if len(all) == 0 {
		return Holder{}, false
	}
	return all[0], true
}

// ByID finds the operator behind a 16-byte id.
func (d Directory) ByID(role member.Role, id [16]byte) (Holder, bool) {
	network := d.Host.Bundle().Network
	for _, e := range d.All(role, "") {
		if OperatorID(network, e.Member.Operator) == id {
			return e, true
		}
	}
	return Holder{}, false
}

func sortHolders(es []Holder) {
	slices.SortFunc(es, func(a, b Holder) int { return bytes.Compare(a.Member.Key[:], b.Member.Key[:]) })
}
