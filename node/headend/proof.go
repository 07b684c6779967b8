package headend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/alarm"
	"gridveil/node/evidence"
	"gridveil/node/metering"
	"gridveil/node/model"
	"gridveil/node/report"
	"gridveil/node/store"
)

// Evidence collects what proves the reports of a usage point that overlap from..to.
// Its error says why there is none, or that the span is too long for one file.
func (h *Headend) Evidence(up model.UsagePoint, from, to time.Time) (out evidence.Reported, err error) {
	ref, ok := h.ofPoint(up)
	if !ok {
		return out, errors.New("no such usage point on the list of this head-end")
	}
	out = evidence.Reported{Key: ref.Gateway[:], UsagePoint: up[:]}
	var last time.Time
	err = h.env.Store.View(func(tx *store.Tx) error {
		out.Reports, last, err = evidence.Collect(tx, up, report.SourceOf(ref.Gateway[:]), from, to)
		return err
	})
	if err != nil {
		return out, err
	}
	out.Chain = h.chainOf(ref.Gateway, last.UnixMilli())
	return out, nil
}

func (h *Headend) ofPoint(up model.UsagePoint) (reference, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.refs {
		if r.UsagePoint == up {
			return *r, true
		}
	}
	return reference{}, false
}

func chainPrefix(k member.Key) []byte { return store.SpaceOrder.Key([]byte("cert"), k[:]) }

// keepChain keeps a gateway's certificate for evidence, by the time it ends. One
// that the network did not issue to this gateway is dropped.
func (h *Headend) keepChain(gateway member.Key, chain [][]byte) {
	if len(chain) == 0 {
		return
	}
	m, err := h.env.Host.Judge(chain)
	if err != nil || m.Key != gateway {
		h.env.Log.Warn("a gateway's certificate for evidence refused", "err", err)
		return
	}
	key, raw := append(chainPrefix(gateway), store.U64(uint64(m.NotAfter.UnixMilli()))...), metering.EncodeChain(chain)
	if held, err := h.env.Store.Get(key); err == nil && bytes.Equal(held, raw) {
		return
	}
	if err := h.env.Store.Set(key, raw); err != nil {
		h.env.Log.Warn("a gateway's certificate not kept; it comes with the next order", "err", err)
	}
}

// chainOf gives the certificate of a member that was the first to end after an
// instant (UTC ms), else the newest; nil when none is known.
func (h *Headend) chainOf(k member.Key, at int64) (chain [][]byte) {
	if k == h.env.Host.Self().Key {
		return h.env.Host.Chain()
	}
	prefix := chainPrefix(k)
	err := h.env.Store.View(func(tx *store.Tx) error {
		return tx.Each(prefix, func(key, v []byte) (err error) {
			if chain, err = metering.ParseChain(bytes.Clone(v)); err != nil {
				return fmt.Errorf("%w: %w", store.ErrDamaged, err)
			}
			if end, _ := store.GetU64(key[len(prefix):]); int64(end) > at {
				return store.ErrStop
			}
			return nil
		})
	})
	if err != nil {
		h.env.Log.Error("certificate for evidence cannot be read", "err", err)
	}
	if chain == nil {
		chain, _ = h.env.Host.ChainOf(k) // a substation's own event
	}
	return chain
}

func viewKey(id alarm.ID) []byte { return store.SpaceView.Key([]byte("shown"), id[:]) }

// AlarmView gives an event of the inbox with what proves it; ok is false for one
// that is not there.
func (h *Headend) AlarmView(id alarm.ID) (v metering.View, ok bool, err error) {
	raw, err := h.env.Store.Get(viewKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return v, false, nil
	}
	if err != nil {
		return v, false, err
	}
	v, _, err = metering.ParseView(raw)
	return v, err == nil, err
}

// commands are what a head-end's control socket answers.
func (h *Headend) commands() {
	h.env.Control.Handle("meter-evidence", func(_ context.Context, in json.RawMessage) (any, error) {
		var q evidence.Query
		if err := json.Unmarshal(in, &q); err != nil {
			return nil, errors.New("want {usage_point, from, to}")
		}
		up, err := h.find(q.UsagePoint)
		if err != nil {
			return nil, err
		}
		return h.Evidence(up, q.From, q.To)
	})
}

// find resolves the beginning of a usage point's hexadecimal name.
func (h *Headend) find(prefix string) (up model.UsagePoint, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, r := range h.refs {
		if len(prefix) >= 4 && bytes.HasPrefix(fmt.Appendf(nil, "%x", r.UsagePoint[:]), []byte(prefix)) {
			up, n = r.UsagePoint, n+1
		}
	}
	if n != 1 {
		return up, fmt.Errorf("%d usage points on this head-end's list begin with %q: give at least four digits that name one\nnext: `gridveil contract list` at the utility shows them", n, prefix)
	}
	return up, nil
}
