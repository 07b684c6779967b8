package keys

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gridveil/node/store"
	"gridveil/privacy"
)

// Ring holds a node's private service keys in its store. Safe for concurrent use.
type Ring struct {
	st    *store.Store
	rnd   io.Reader
	suite privacy.Suite

	mu  sync.Mutex
	box map[slot]privacy.BoxKey
	sig map[slot]ed25519.PrivateKey
}

type slot struct {
	use    Use
	period uint32
}

func (s slot) key() []byte {
	return store.SpaceSettings.Key([]byte("key"), []byte{byte(s.use)}, binary.BigEndian.AppendUint32(nil, s.period))
}

// ErrErased means that the key's time is over and it was destroyed.
var ErrErased = errors.New("key was erased after its period")

// NewRing keeps keys in st and draws them from rnd.
func NewRing(st *store.Store, rnd io.Reader, suite privacy.Suite) *Ring {
	return &Ring{st: st, rnd: rnd, suite: suite, box: map[slot]privacy.BoxKey{}, sig: map[slot]ed25519.PrivateKey{}}
}

// Signer gives the signing key of a use at t, making it durable first if it is new.
func (r *Ring) Signer(u Use, t time.Time) (ed25519.PrivateKey, error) {
	if u.Sealing() {
		return nil, fmt.Errorf("%v keys do not sign", u)
	}
	s := slot{u, u.Period(t)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.sig[s]; ok {
		return k, nil
	}
	seed, err := r.seed(s, true)
	if err != nil {
		return nil, err
	}
	r.sig[s] = ed25519.NewKeyFromSeed(seed)
	return r.sig[s], nil
}

// Box gives the sealing key of a use at t, making it durable first if it is new.
func (r *Ring) Box(u Use, t time.Time) (privacy.BoxKey, error) {
	return r.boxOf(slot{u, u.Period(t)}, true)
}

// BoxOf gives the sealing key of a past or present period, or ErrErased.
func (r *Ring) BoxOf(u Use, period uint32) (privacy.BoxKey, error) {
	return r.boxOf(slot{u, period}, false)
}

func (r *Ring) boxOf(s slot, create bool) (privacy.BoxKey, error) {
	if !s.use.Sealing() {
		return privacy.BoxKey{}, fmt.Errorf("%v keys do not seal", s.use)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.box[s]; ok {
		return k, nil
	}
	seed, err := r.seed(s, create)
	if err != nil {
		return privacy.BoxKey{}, err
	}
	k, err := privacy.NewBoxKey(&fixedReader{seed}, r.suite)
	if err != nil {
		return privacy.BoxKey{}, fmt.Errorf("derive %v key: %w", s.use, err)
	}
	r.box[s] = k
	return k, nil
}

// seedSize covers the largest seed of a suite: X-Wing's 96 bytes.
const seedSize = 96

// seed loads or draws the seed behind a slot. The caller holds mu.
func (r *Ring) seed(s slot, create bool) ([]byte, error) {
	size := ed25519.SeedSize
	if s.use.Sealing() {
		size = seedSize
	}
	seed, err := r.st.Get(s.key())
	if err == nil && len(seed) == size {
		return seed, nil
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("load %v key: %w", s.use, err)
	}
	if !create {
		return nil, fmt.Errorf("%v key of period %d: %w", s.use, s.period, ErrErased)
	}
	seed = make([]byte, size)
	if _, err := io.ReadFull(r.rnd, seed); err != nil {
		return nil, fmt.Errorf("draw %v key: %w", s.use, err)
	}
	if err := r.st.Set(s.key(), seed); err != nil {
		return nil, fmt.Errorf("keep %v key: %w", s.use, err)
	}
	return seed, nil
}

// fixedReader hands out a seed; a suite that wants less takes its beginning.
type fixedReader struct{ b []byte }

func (f *fixedReader) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

// Sheet makes the public sheet of the given uses at t: the present period of
// each and the next ahead periods, so that senders need not ask again at once.
func (r *Ring) Sheet(t time.Time, ahead int, uses ...Use) (Sheet, error) {
	var s Sheet
	for _, u := range uses {
		periods := 1
		if u.rotation() > 0 {
			periods += ahead
		}
		for i := range periods {
			at := t.Add(time.Duration(i) * u.rotation())
			k := Key{Use: u, Period: u.Period(at)}
			if u.Sealing() {
				b, err := r.Box(u, at)
				if err != nil {
					return nil, err
				}
				k.Public = b.Pub
			} else {
				sk, err := r.Signer(u, at)
				if err != nil {
					return nil, err
				}
				k.Public = sk.Public().(ed25519.PublicKey)
			}
			s = append(s, k)
		}
	}
	return s, nil
}

// Erase destroys the private keys whose time is over at t. It is called daily.
func (r *Ring) Erase(t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	prefix := store.SpaceSettings.Key([]byte("key"))
	return r.st.Update(func(tx *store.Tx) error {
		var over [][]byte
		err := tx.Each(prefix, func(key, _ []byte) error {
			rest := key[len(prefix):]
			if len(rest) != 5 {
				return nil
			}
			s := slot{Use(rest[0]), binary.BigEndian.Uint32(rest[1:])}
			if s.use.rotation() > 0 && t.After(s.use.Starts(s.period+1).Add(s.use.keep())) {
				over = append(over, key)
				delete(r.box, s)
				delete(r.sig, s)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, k := range over {
			if err := tx.Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}
