package onion

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/mesh/mix"
	"gridveil/mesh/packet"
)

// Protocol is the libp2p protocol on which packets travel, one stream in each direction, one after another.
const Protocol protocol.ID = "/gridveil/onion/1"

const (
	sendQueue     = 512              // packets waiting for one neighbour; more are dropped
	writeTimeout  = 10 * time.Second // wall time for one batch
	openTimeout   = 10 * time.Second
	idleNeighbour = 10 * time.Minute // then the stream is closed and its goroutine ends
	overRate      = 64               // packets above its rate on one stream, then a neighbour is kept out of a home that relays
	readAhead     = 4 * packet.Size  // per stream that packets come in on; a read costs more than a copy
	maxNeighbours = 2560             // an SSN's connections and some; a packet may name any next node
)

// neighbours sends packets on, one stream and one goroutine per neighbour.
type neighbours struct {
	o  *Onion
	wg sync.WaitGroup

	mu sync.Mutex
	to map[packet.NodeKey]*neighbour
}

type neighbour struct {
	id    peer.ID
	queue chan *packet.Packet
}

// send queues a packet for a neighbour and reports whether there was room. While the onion is switched off there is
// none: this is the only way out of it.
func (n *neighbours) send(to packet.NodeKey, p *packet.Packet) bool {
	if n.o.off.Load() {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	nb := n.to[to]
	if nb == nil {
		id, err := member.Key(to).Peer()
		if err != nil || len(n.to) >= maxNeighbours {
			return false
		}
		nb = &neighbour{id: id, queue: make(chan *packet.Packet, sendQueue)}
		n.wg.Add(1)
		if !n.o.h.Go(func(ctx context.Context) { defer n.wg.Done(); n.write(ctx, to, nb) }) {
			n.wg.Done()
			return false
		}
		n.to[to] = nb
	}
	select {
	case nb.queue <- p:
		return true
	default:
		return false
	}
}

// wait returns once all writers have ended, which they do with the host.
func (n *neighbours) wait() { n.wg.Wait() }

// retire forgets a neighbour unless something was queued meanwhile.
func (n *neighbours) retire(to packet.NodeKey, nb *neighbour) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(nb.queue) > 0 {
		return false
	}
	delete(n.to, to)
	return true
}

// write sends what is queued, in shuffled batches.
func (n *neighbours) write(ctx context.Context, to packet.NodeKey, nb *neighbour) {
	var s network.Stream
	defer func() {
		if s != nil {
			_ = s.Reset() // nothing is half sent that matters: frames are whole or worthless
		}
	}()
	for {
		var first *packet.Packet
		select {
		case first = <-nb.queue:
		default:
			select {
			case first = <-nb.queue:
			case <-n.o.clock.After(idleNeighbour):
				if n.retire(to, nb) {
					return
				}
				continue
			case <-ctx.Done():
				return
			}
		}
		batch := n.gather(ctx, nb, first)
		if err := mix.Shuffle(batch, n.o.rnd); err != nil {
			n.o.log.Error("no randomness", "err", err)
			return
		}
		if n.o.off.Load() { // it was switched after these were queued
			n.o.count(DropOff, uint64(len(batch)))
			continue
		}
		if s == nil {
			s = n.open(ctx, nb.id)
		}
		if s == nil || writeBatch(s, batch) != nil {
			if s != nil {
				_ = s.Reset() // broken
				s = nil
			}
			n.o.count(DropNeighbour, uint64(len(batch)))
			if s == nil && n.retire(to, nb) {
				return // whoever does not exist must not cost a goroutine
			}
			continue
		}
		n.o.h.Carried(len(batch)*packet.Size, 0)
	}
}

// gather waits a moment for more packets, so that a batch can be shuffled.
func (n *neighbours) gather(ctx context.Context, nb *neighbour, first *packet.Packet) []*packet.Packet {
	batch := []*packet.Packet{first}
	wait := n.o.clock.After(mix.BatchWait)
	for len(batch) < mix.MaxBatch {
		select {
		case p := <-nb.queue:
			batch = append(batch, p)
		case <-wait:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

func (n *neighbours) open(ctx context.Context, id peer.ID) network.Stream {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	s, err := n.o.h.Stream(ctx, id, Protocol)
	if err != nil {
		n.o.log.Debug("onion neighbour not reached", "err", err)
		return nil
	}
	return s
}

// A relay would allocate 4 KiB per packet: the packet and its part of a batch. Both are worthless once written.
var (
	packets = sync.Pool{New: func() any { return new(packet.Packet) }}
	batches = sync.Pool{New: func() any { return new([mix.MaxBatch * packet.Size]byte) }}
)

// writeBatch writes packets in one go and takes them back.
func writeBatch(s network.Stream, batch []*packet.Packet) error {
	whole := batches.Get().(*[mix.MaxBatch * packet.Size]byte) // the pool holds nothing else
	defer batches.Put(whole)
	buf := whole[:0]
	for _, p := range batch {
		buf = append(buf, p[:]...)
		packets.Put(p)
	}
	_ = s.SetWriteDeadline(time.Now().Add(writeTimeout)) // a stream that cannot set it fails in Write
	_, err := s.Write(buf)
	return err
}

// serveStream takes packets in from one neighbour.
func (o *Onion) serveStream(from mesh.Member, s network.Stream) {
	defer s.Reset() // the neighbour has closed it, or it is broken
	key := packet.NodeKey(from.Key)
	o.relay.join(key)
	defer o.relay.leave(key)
	in := bufio.NewReaderSize(s, readAhead)
	for over := 0; ; {
		p := packets.Get().(*packet.Packet) // the pool holds nothing else
		if _, err := io.ReadFull(in, p[:]); err != nil {
			return
		}
		o.h.Carried(0, packet.Size)
		if err := o.relay.take(from, p); errors.Is(err, mix.ErrRate) && o.chosen() {
			if over++; over >= overRate && o.h.Expel(from.Peer) { // its bytes count against the day's data of this home
				return
			}
		}
	}
}
