package onion

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"gridveil/mesh/gossip"
	"gridveil/mesh/member"
	"gridveil/mesh/packet"
	"gridveil/mesh/route"
)

const (
	publishEvery = time.Hour        // keys, with the measured numbers
	publishSoon  = 12 * time.Minute // after a start, when the first numbers are there: within 6 registers an hour
	publishFast  = 20 * time.Minute // on an accelerated clock, where fewer epochs lie ahead
	publishRetry = time.Second      // after a failure, doubled up to publishSlow
	publishSlow  = time.Minute
	minMeasured  = 10 * time.Minute // a shorter measurement says little; the last published numbers stand
	sealEvery    = 7 * 24 * time.Hour
	sealLife     = 14 * 24 * time.Hour

	stateGuards = "onion-guards"
	stateSeals  = "onion-seals"
)

// publishLoop keeps this node's registers in the directory.
func (o *Onion) publishLoop(ctx context.Context) {
	var sealed time.Time
	var cert [32]byte
	retry := publishRetry
	for round := 0; ; round++ {
		now := o.clock.Now()
		if self := o.h.Self().CertHash; self != cert {
			cert, sealed = self, time.Time{} // what an old certificate signed ends with it
		}
		wait := publishEvery
		if round < 2 {
			wait = publishSoon
		} else if o.h.Lag() > 0 {
			wait = publishFast
		}
		var err error
		if !o.role.Leaf() && now.Sub(sealed) >= sealEvery/2 {
			if err = o.publishSeal(now); err == nil {
				sealed = now
			}
		}
		publish := o.publishKeys
		if o.role.Leaf() {
			publish = func(now time.Time) error { return o.publishHome(ctx, now) }
		}
		if err = errors.Join(err, publish(now)); err != nil {
			if ctx.Err() != nil {
				return
			}
			o.log.Debug("directory register not published", "err", err)
			wait, retry = retry, min(2*retry, publishSlow)
			round--
		} else {
			retry = publishRetry
		}
		if !o.awaitPublish(ctx, wait, cert) {
			return
		}
	}
}

// awaitPublish waits until the next registers are due, or the certificate was renewed; false when ctx ended.
func (o *Onion) awaitPublish(ctx context.Context, wait time.Duration, cert [32]byte) bool {
	for due := o.clock.Now().Add(wait); ; {
		left := due.Sub(o.clock.Now())
		if left <= 0 || o.h.Self().CertHash != cert {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-o.republish:
			return true
		case <-o.clock.After(min(left, tick)):
		}
	}
}

func (o *Onion) publishKeys(now time.Time) error {
	if _, err := o.relay.advance(now, o.h.Lag()); err != nil {
		return err
	}
	k := route.Keys{Region: o.region()}
	if !o.off.Load() { // a node that is switched off stays in the directory for what travels on lanes
		k.Flags = route.FlagRecipient
		if o.relays() {
			k.Flags |= route.FlagRelay
		}
	}
	if o.keepsMail() {
		k.Flags |= route.FlagMailbox
	}
	k.Leaves, k.LeafFrames = o.traffic(now)
	o.addAddresses(&k)
	return o.putKeys(k, now)
}

// addAddresses fills in where this node can be dialled.
func (o *Onion) addAddresses(k *route.Keys) {
	for _, a := range o.h.Addrs() {
		if len(k.Addresses) < route.MaxAddresses {
			k.Addresses = append(k.Addresses, a.String())
		}
	}
}

// putKeys publishes k with the keys of now.
func (o *Onion) putKeys(k route.Keys, now time.Time) error {
	o.relay.keysMu.Lock()
	k.Epoch, k.Keys = o.relay.keys.Public(now)
	o.relay.keysMu.Unlock()
	body, err := k.Encode()
	if err != nil {
		return err
	}
	return o.h.Publish(gossip.KindDirectory, gossip.KeyOnion, body, now.Add(gossip.KindDirectory.MaxLife(gossip.KeyOnion)))
}

// traffic gives the leaf numbers to publish. Right after a start they are the last published ones, which gossip kept:
// otherwise every home behind this guard would stop sending for minutes.
func (o *Onion) traffic(now time.Time) (leaves uint16, frames uint32) {
	if n, f, enough := o.relay.measured(now); enough {
		return route.FloorLeaves(n), f
	}
	e, ok := o.h.Register(gossip.KindDirectory, o.h.Self().Key, gossip.KeyOnion)
	if !ok {
		return 0, 0
	}
	k, err := route.ParseKeys(e.Body)
	if err != nil {
		return 0, 0
	}
	return k.Leaves, k.LeafFrames
}

// region is that of the node's zone, or of the first zone for members without one.
func (o *Onion) region() uint16 {
	b := o.h.Bundle()
	if r, ok := b.Region(o.h.Self().Zone); ok {
		return r
	}
	if len(b.Zones) > 0 {
		return b.Zones[0].Region
	}
	return 0
}

func (o *Onion) publishSeal(now time.Time) error {
	if err := o.seals.rotate(o.c.Store, o.rnd, now); err != nil {
		return err
	}
	key := o.seals.public()
	e, held := o.h.Register(gossip.KindDirectory, o.h.Self().Key, gossip.KeySeal)
	if held && e.CertHash == o.h.Self().CertHash && bytes.Equal(e.Body, key) && now.Sub(e.Issued) < sealEvery/2 {
		return nil // published before a restart
	}
	return o.h.Publish(gossip.KindDirectory, gossip.KeySeal, key, now.Add(sealLife))
}

// seals holds the sealing keys of a recipient: the published one first, then the one before it, which directories may
// name for two more weeks.
type seals struct {
	mu   sync.Mutex
	keys []*packet.SealKey
	made time.Time // of the first
}

// openSeals restores the keys, or makes the first. A leaf has none.
func openSeals(s Store, rnd io.Reader, role member.Role, now time.Time) (*seals, error) {
	k := &seals{}
	if role.Leaf() {
		return k, nil
	}
	raw, err := s.LoadState(stateSeals)
	if err != nil {
		return nil, fmt.Errorf("load sealing key: %w", err)
	}
	if err := k.parse(raw); err != nil {
		return nil, fmt.Errorf("load sealing key: %w", err)
	}
	return k, k.rotate(s, rnd, now)
}

// parse reads (made u64 | seed 32 | seed 32?); no bytes are no keys.
func (k *seals) parse(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	if len(raw) != 8+32 && len(raw) != 8+64 {
		return packet.ErrSealKey
	}
	k.made = time.UnixMilli(int64(binary.BigEndian.Uint64(raw))).UTC()
	for raw = raw[8:]; len(raw) > 0; raw = raw[32:] {
		key, err := packet.ParseSealKey(raw[:32])
		if err != nil {
			return err
		}
		k.keys = append(k.keys, key)
	}
	return nil
}

// rotate makes a new key once a week, durably before it is used.
func (k *seals) rotate(s Store, rnd io.Reader, now time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) > 0 && now.Sub(k.made) < sealEvery {
		return nil
	}
	key, err := packet.NewSealKey(rnd)
	if err != nil {
		return err
	}
	keys := append([]*packet.SealKey{key}, k.keys[:min(len(k.keys), 1)]...)
	raw := binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli()))
	for _, each := range keys {
		seed, err := each.Seed()
		if err != nil {
			return err
		}
		raw = append(raw, seed...)
	}
	if err := s.SaveState(stateSeals, raw); err != nil {
		return fmt.Errorf("save sealing key: %w", err)
	}
	k.keys, k.made = keys, now
	return nil
}

func (k *seals) public() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[0].Public()
}

// open opens a request sealed for any of the keys.
func (k *seals) open(sealed []byte) (q packet.Request, key packet.AnswerKey, err error) {
	k.mu.Lock()
	keys := k.keys
	k.mu.Unlock()
	err = packet.ErrSealKey
	for _, each := range keys {
		if q, key, err = each.OpenRequest(sealed); err == nil {
			return q, key, nil
		}
	}
	return q, key, err
}
