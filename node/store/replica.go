package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// The stores of several machines that stand in for each other hold the same
// values. One of them leads: each of its commits is decided by all before it
// happens, and then every store, the leader's too, makes it by Apply.

// Position says how far a replica is: two with the same position hold the same
// values.
type Position struct {
	N      uint64   // commits since the cluster was founded
	Digest [32]byte // of all of them, in order
}

// ErrFollows means that this store is a replica and does not lead: only Apply
// changes it.
var ErrFollows = errors.New("store: this machine does not lead its cluster")

// ErrReplica means that a commit or dump of another machine is malformed.
var ErrReplica = errors.New("store: malformed commit or dump of another machine")

var positionKey = spaceReplica.Key()

// next is the position after a commit.
func (p Position) next(data []byte) Position {
	h := sha256.New()
	h.Write([]byte("gridveil/store/replica/v1\x00"))
	h.Write(p.Digest[:])
	h.Write(data)
	return Position{p.N + 1, [32]byte(h.Sum(nil))}
}

func (p Position) write() write { return write{value: append(U64(p.N), p.Digest[:]...)} }

// loadPosition reads how far the replica is.
func (s *Store) loadPosition() error {
	b, err := s.Get(positionKey)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case len(b) != 40:
		return fmt.Errorf("%w: position of the replica", ErrDamaged)
	}
	s.headMu.Lock()
	defer s.headMu.Unlock()
	s.at, s.placed = Position{binary.BigEndian.Uint64(b), [32]byte(b[8:])}, true
	return nil
}

// alone commits a group of a store that is no replica now. If it was one, it
// forgets its position: what it writes from here on, no other store has.
func (s *Store) alone(writes layer) error {
	if _, ok := s.Position(); !ok {
		return s.commit(writes)
	}
	writes = maps.Clone(writes)
	writes[string(positionKey)] = write{gone: true}
	if err := s.commit(writes); err != nil {
		return err
	}
	s.headMu.Lock()
	defer s.headMu.Unlock()
	s.placed = false
	return nil
}

// Position is how far this replica is; ok is false for a store that was never in
// step with others.
func (s *Store) Position() (p Position, ok bool) {
	s.headMu.Lock()
	defer s.headMu.Unlock()
	return s.at, s.placed
}

// Found makes what this store holds the beginning that the other stores take
// over. digest is a random one: no two beginnings are equal.
func (s *Store) Found(digest [32]byte) error {
	return s.place(layer{}, Position{Digest: digest})
}

// Lead lets Update work: propose decides on a commit that follows a position, and
// returns once this store has applied it. After an error of propose Update
// refuses everything until the store is opened again.
func (s *Store) Lead(propose func(at Position, data []byte) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.propose = propose
}

// decide has a group decided by all.
func (s *Store) decide(writes layer) error {
	at, ok := s.Position()
	s.mu.Lock()
	propose := s.propose
	s.mu.Unlock()
	if !ok || propose == nil {
		return ErrFollows
	}
	return propose(at, encodeWrites(writes))
}

// Apply makes a commit that was decided on at the present position. It returns
// ErrReplica for malformed data; any error but that leaves the state unknown, as
// in Update.
func (s *Store) Apply(data []byte) error {
	writes, err := decodeWrites(data)
	if err != nil {
		return err
	}
	s.mu.Lock()
	err = errors.Join(s.broken, s.hasRoom(writes))
	if s.closed {
		err = ErrClosed
	}
	s.mu.Unlock()
	at, ok := s.Position()
	if !ok {
		err = errors.Join(err, ErrFollows)
	}
	if err == nil {
		err = s.place(writes, at.next(data))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.broken = fmt.Errorf("%w: %w", ErrStopped, err)
		return s.broken
	}
	s.mergeWhenDue(len(data))
	return nil
}

// place commits writes together with the position after them.
func (s *Store) place(writes layer, p Position) error {
	writes = maps.Clone(writes)
	writes[string(positionKey)] = p.write()
	if err := s.commit(writes); err != nil {
		return err
	}
	s.headMu.Lock()
	defer s.headMu.Unlock()
	s.at, s.placed = p, true
	return nil
}

// encodeWrites is, in the order of keys: gone:u8 key:u16 bytes, and for what is
// not gone value:u32 bytes.
func encodeWrites(writes layer) []byte {
	var b []byte
	for _, key := range slices.Sorted(maps.Keys(writes)) {
		w := writes[key]
		b = append(b, flagByte(w.gone))
		b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
		b = append(b, key...)
		if !w.gone {
			b = binary.BigEndian.AppendUint32(b, uint32(len(w.value)))
			b = append(b, w.value...)
		}
	}
	return b
}

// decodeWrites reads exactly what encodeWrites writes.
func decodeWrites(b []byte) (layer, error) {
	out, last := layer{}, ""
	for len(b) > 0 {
		if len(b) < 3 || b[0] > 1 {
			return nil, ErrReplica
		}
		gone, size := b[0] == 1, int(binary.BigEndian.Uint16(b[1:]))
		if len(b) < 3+size {
			return nil, ErrReplica
		}
		key := b[3 : 3+size]
		if b = b[3+size:]; checkKey(key) != nil || len(out) > 0 && string(key) <= last {
			return nil, ErrReplica
		}
		w := write{gone: gone}
		if !gone {
			if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
				return nil, ErrReplica
			}
			end := 4 + int(binary.BigEndian.Uint32(b))
			w.value, b = bytes.Clone(b[4:end]), b[end:]
		}
		last = string(key)
		out[last] = w
	}
	return out, nil
}

// Dump writes everything that the store holds at one position, which it gives:
// n:u64 digest[32], then each value as key:u16 bytes value:u32 bytes, and an
// empty key at the end. It returns ErrFollows for a store without a position.
func (s *Store) Dump(w io.Writer) error {
	return s.View(func(tx *Tx) error {
		at, err := tx.Get(positionKey)
		if errors.Is(err, ErrNotFound) {
			return ErrFollows
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(at); err != nil {
			return err
		}
		it := tx.txn.NewIterator(badger.IteratorOptions{})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().KeyCopy(nil)
			if checkKey(key) != nil {
				continue // Badger's own, the chain and the position
			}
			value, err := tx.openItem(key, it.Item())
			if err != nil {
				return err
			}
			b := append(binary.BigEndian.AppendUint16(nil, uint16(len(key))), key...)
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(value))), value...)
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		_, err = w.Write([]byte{0, 0})
		return err
	})
}

// Load replaces everything that the store holds by a dump. Until it has ended
// well the store has no position. Its error is ErrReplica or that of r, and
// ErrStopped where the disk failed.
func (s *Store) Load(r io.Reader) error {
	var head [40]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrReplica, err)
	}
	if err := s.empty(); err != nil {
		return err
	}
	batch, size := layer{}, 0
	for {
		key, value, err := s.readPair(r)
		if err != nil {
			return err
		}
		w := write{value: value}
		if len(batch) >= maxGroupWrites/2 || size+cost(key, w) > groupFactor*s.opt.MaxValue || len(key) == 0 {
			if err := s.commit(batch); err != nil {
				return fmt.Errorf("%w: %w", ErrStopped, err)
			}
			batch, size = layer{}, 0
		}
		if len(key) == 0 {
			return s.place(layer{}, Position{binary.BigEndian.Uint64(head[:]), [32]byte(head[8:])})
		}
		batch[string(key)], size = w, size+cost(key, w)
	}
}

// readPair reads one value of a dump; the key is empty at its end.
func (s *Store) readPair(r io.Reader) (key, value []byte, err error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:2]); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrReplica, err)
	}
	size := binary.BigEndian.Uint16(n[:])
	if size == 0 {
		return nil, nil, nil
	}
	key = make([]byte, min(int(size), maxKey+1))
	if _, err := io.ReadFull(r, key); err != nil || checkKey(key) != nil {
		return nil, nil, errors.Join(ErrReplica, err)
	}
	if _, err := io.ReadFull(r, n[:]); err != nil || binary.BigEndian.Uint32(n[:]) > uint32(s.opt.MaxValue) {
		return nil, nil, errors.Join(ErrReplica, err)
	}
	value = make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(r, value); err != nil {
		return nil, nil, errors.Join(ErrReplica, err)
	}
	return key, value, nil
}

// empty forgets the position, then everything else.
func (s *Store) empty() error {
	s.headMu.Lock()
	s.placed = false
	s.headMu.Unlock()
	if err := s.commit(layer{string(positionKey): {gone: true}}); err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	for {
		batch := layer{}
		err := s.db.View(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{})
			defer it.Close()
			for it.Rewind(); it.Valid() && len(batch) < maxGroupWrites/2; it.Next() {
				if key := it.Item().KeyCopy(nil); checkKey(key) == nil {
					batch[string(key)] = write{gone: true}
				}
			}
			return nil
		})
		if err == nil && len(batch) > 0 {
			err = s.commit(batch)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrStopped, err)
		}
		if len(batch) == 0 {
			return nil
		}
	}
}
