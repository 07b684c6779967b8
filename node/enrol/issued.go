package enrol

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/store"
)

const (
	endedKept = 30 * 24 * time.Hour // how long the list of members still shows a certificate that ended
	listLife  = 30 * 24 * time.Hour // of a revocation list; renewed when two thirds are over
	minPrefix = 8                   // digits of a serial or key that may name it: all serials begin with 01
	maxReason = 200                 // bytes
)

// Issued is a certificate that this node gave out. It stays in the node's sealed
// store: who holds which key is nobody else's business.
type Issued struct {
	Serial    string      `json:"serial"` // lower-case hexadecimal
	Key       string      `json:"key"`    // the member's key, lower-case hexadecimal, as its status shows it
	Role      member.Role `json:"role"`
	Zone      string      `json:"zone,omitempty"`
	At        time.Time   `json:"issued"`
	End       time.Time   `json:"end"`
	RevokedAt time.Time   `json:"revoked,omitzero"` // zero while it is good
	Reason    string      `json:"reason,omitempty"` // of the revocation; never leaves the node
}

// Good reports whether the certificate admits its holder at now.
func (i Issued) Good(now time.Time) bool { return i.RevokedAt.IsZero() && !now.After(i.End) }

// List is the newest revocation list of this node's CA.
type List struct {
	Number uint64    `json:"number"` // 0: none was ever signed
	Renew  time.Time `json:"renew"`  // when the next one is due
	DER    []byte    `json:"der"`
}

func issuedKey(serial string) []byte { return store.SpaceMesh.Key([]byte("issued"), []byte(serial)) }

func listKey() []byte { return store.SpaceMesh.Key([]byte("revoked")) }

func (r *Registrar) loadIssued() error {
	r.all = map[string]Issued{}
	err := r.st.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceMesh.Key([]byte("issued")), func(_, v []byte) error {
			var i Issued
			err := json.Unmarshal(v, &i)
			r.all[i.Serial] = i
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("load issued certificates: %w", err)
	}
	b, err := r.st.Get(listKey())
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.crl)
	}
	if err != nil {
		return fmt.Errorf("load revocation list: %w", err)
	}
	return nil
}

// issue signs a certificate and remembers it durably before it is handed out.
// The caller holds mu.
func (r *Registrar) issue(g member.Grant) ([][]byte, error) {
	now := r.clock.Now()
	chain, err := r.ca.IssueMember(g, now, r.rnd)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	m, err := r.net().Verify(chain, now)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	i := Issued{Serial: m.Serial, Key: hex.EncodeToString(m.Key[:]), Role: m.Role, Zone: m.Zone, At: now.UTC().Truncate(time.Second), End: m.NotAfter}
	b, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	if err := r.st.Set(issuedKey(i.Serial), b); err != nil {
		return nil, fmt.Errorf("keep issued certificate: %w", err)
	}
	r.all[i.Serial] = i
	return chain, nil
}

// Issued lists the certificates that this node gave out and that ended at most
// 30 days ago, by role, zone and time of issue.
func (r *Registrar) Issued() []Issued {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Issued, 0, len(r.all))
	for _, i := range r.all {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b Issued) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Zone, b.Zone), a.At.Compare(b.At), cmp.Compare(a.Serial, b.Serial))
	})
	return out
}

// Homes is how many homes hold a good certificate of this node, each counted
// once: this operator's part of the bundle's homes_enrolled.
func (r *Registrar) Homes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, keys := r.clock.Now(), map[string]bool{}
	for _, i := range r.all {
		if i.Role == member.RoleGateway && i.Good(now) {
			keys[i.Key] = true
		}
	}
	return len(keys)
}

// List is the newest revocation list; its number is 0 when there is none.
func (r *Registrar) List() List {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.crl
}

// Revoke takes back every good certificate of the members that names stand for,
// each the beginning (8 digits or more) of a serial or key. held is the list
// of this CA that the mesh holds, nil for none: another node with the same CA may
// have signed it, and what it took back stays so. The new list is durable when
// Revoke returns; the caller publishes it. reason is for the operator's own
// records and does not leave the node.
func (r *Registrar) Revoke(names []string, reason string, held []byte) ([]Issued, error) {
	if len(reason) > maxReason {
		return nil, fmt.Errorf("a reason has at most %d bytes, got %d", maxReason, len(reason))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now().UTC().Truncate(time.Second)
	keys := map[string]bool{}
	for _, name := range names {
		key, err := r.find(strings.ToLower(name), now)
		if err != nil {
			return nil, err
		}
		keys[key] = true
	}
	var hit []Issued
	for _, i := range r.all {
		if keys[i.Key] && i.Good(now) {
			i.RevokedAt, i.Reason = now, reason
			hit = append(hit, i)
		}
	}
	slices.SortFunc(hit, func(a, b Issued) int { return cmp.Compare(a.Serial, b.Serial) })
	return hit, r.sign(hit, held, now)
}

// find gives the key of the one member that name stands for.
func (r *Registrar) find(name string, now time.Time) (string, error) {
	keys := map[string]bool{}
	for _, i := range r.all {
		if len(name) >= minPrefix && i.Good(now) && (strings.HasPrefix(i.Serial, name) || strings.HasPrefix(i.Key, name)) {
			keys[i.Key] = true
		}
	}
	if len(keys) != 1 {
		return "", fmt.Errorf("%d members with a good certificate of this node have a serial or key that begins with %q: give at least %d digits that name one\nnext: `gridveil members` shows them", len(keys), name, minPrefix)
	}
	for key := range keys {
		return key, nil
	}
	return "", nil // one was just counted
}

// RenewList signs the list again when it is due, or when held, as in Revoke,
// would let somebody back in whom this node took out. It reports whether it
// did. A CA that never revoked has no list.
func (r *Registrar) RenewList(held []byte) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now().UTC().Truncate(time.Second)
	if r.crl.Number == 0 {
		return false, nil
	}
	forgets, err := r.forgets(held, now)
	if err != nil || !forgets && now.Before(r.crl.Renew) {
		return false, err
	}
	return true, r.sign(nil, held, now)
}

// forgets reports whether held replaces the own list and lacks an entry of it
// that still matters. The caller holds mu.
func (r *Registrar) forgets(held []byte, now time.Time) (bool, error) {
	if held == nil {
		return false, nil
	}
	_, number, err := r.net().CRLSigner(held)
	if err != nil || number < r.crl.Number {
		return false, nil // not of this network's CAs any more, or older than the own
	}
	both, err := member.RevokedIn(held)
	if err != nil {
		return false, err
	}
	own, _, err := r.merge(nil, now)
	if err != nil {
		return false, err
	}
	for _, e := range both {
		delete(own, e.Serial)
	}
	return len(own) > 0, nil
}

// sign makes the next list: hit, what was taken back before and has not ended,
// and what held takes back. All is durable in one step. The caller holds mu.
func (r *Registrar) sign(hit []Issued, held []byte, now time.Time) error {
	entries, number, err := r.merge(held, now)
	if err != nil {
		return err
	}
	for _, i := range hit {
		entries[i.Serial] = member.Revoked{Serial: i.Serial, At: i.RevokedAt}
	}
	if len(entries) > member.MaxRevoked {
		return fmt.Errorf("a revocation list holds %d certificates, this would be %d\nnext: take a new CA into the bundle and the old one out: everybody but the revoked enrols again", member.MaxRevoked, len(entries))
	}
	list := make([]member.Revoked, 0, len(entries))
	for _, e := range entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b member.Revoked) int { return cmp.Compare(a.Serial, b.Serial) })
	der, err := r.ca.SignRevoked(list, number+1, now, now.Add(listLife), r.rnd)
	if err != nil {
		return err
	}
	next := List{Number: number + 1, Renew: now.Add(listLife * 2 / 3), DER: der}
	err = r.st.Update(func(tx *store.Tx) error {
		for _, i := range hit {
			b, err := json.Marshal(i)
			if err != nil {
				return err
			}
			if err := tx.Set(issuedKey(i.Serial), b); err != nil {
				return err
			}
		}
		b, err := json.Marshal(next)
		if err != nil {
			return err
		}
		return tx.Set(listKey(), b)
	})
	if err != nil {
		return fmt.Errorf("keep revocation list: %w", err)
	}
	for _, i := range hit {
		r.all[i.Serial] = i
	}
	r.crl = next
	return nil
}

// merge joins the own list with the one that the mesh holds, without what has
// ended by now, and gives the higher of both numbers.
func (r *Registrar) merge(held []byte, now time.Time) (map[string]member.Revoked, uint64, error) {
	out, number := map[string]member.Revoked{}, r.crl.Number
	for _, der := range [][]byte{r.crl.DER, held} {
		if der == nil {
			continue
		}
		entries, err := member.RevokedIn(der)
		if err != nil {
			return nil, 0, err
		}
		for _, e := range entries {
			ends := e.At.Add(member.MemberLife) // no certificate lives longer
			if i, own := r.all[e.Serial]; own {
				ends = i.End
			}
			if !now.After(ends) {
				out[e.Serial] = e
			}
		}
		if _, n, err := r.net().CRLSigner(der); err == nil {
			number = max(number, n)
		}
	}
	return out, number, nil
}
