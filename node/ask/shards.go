package ask

import (
	"errors"
	"fmt"

	"gridveil/ledger"
	"gridveil/node/store"
)

// successorKey is where what Shards reads is kept.
func successorKey(sealed string) []byte {
	h := ledger.OriginHash(sealed)
	return store.SpaceLedger.Key([]byte("next"), h[:])
}

// maxShards bounds how far a chain of logs is followed: a century of years.
const maxShards = 100

// Shards gives the logs in which the ledger of a policy goes on, in order, as this node has heard and checked. Whoever vouches for the last one
// vouches for those before it: their cosigners of old may be gone.
func Shards(st *store.Store, p *ledger.Policy) (out []ledger.LaterLog, err error) {
	var heard []ledger.LaterLog
	var base uint64
	sure := 0
	for at := p; len(heard) < maxShards; {
		b, err := st.Get(successorKey(at.Log.Name()))
		if errors.Is(err, store.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("stored successor of the ledger's log: %w", err)
		}
		x, err := ledger.ParseSuccessor(b)
		if err != nil {
			return nil, fmt.Errorf("stored successor of the ledger's log: %w", err)
		}
		next, final, err := x.Check(at)
		if err != nil {
			break // another ledger was founded since
		}
		sealed, err := x.Sealed()
		if err != nil {
			return nil, fmt.Errorf("stored successor of the ledger's log: %w", err)
		}
		base += sealed.Size
		heard, at = append(heard, ledger.LaterLog{Origin: next, Base: base}), p.As(next)
		if final {
			sure = len(heard)
		}
	}
	return heard[:sure], nil
}

// Succeeded keeps what shows that a log of the ledger goes on in another one, if
// it holds; p is the policy of the ledger's first log. Its error is the store's.
func Succeeded(st *store.Store, p *ledger.Policy, x *ledger.Successor) error {
	sealed, err := x.Sealed()
	if err != nil {
		return nil // it shows nothing
	}
	own := p.As(sealed.Origin)
	_, final, err := x.Check(own)
	if err != nil {
		return nil
	}
	b, err := st.Get(successorKey(sealed.Origin))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("stored successor of the ledger's log: %w", err)
	}
	if old, bad := ledger.ParseSuccessor(b); bad == nil {
		if _, was, bad := old.Check(own); bad == nil && (was || !final) {
			return nil // what is kept shows no less
		}
	}
	return st.Set(successorKey(sealed.Origin), x.Encode())
}
