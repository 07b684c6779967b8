package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"gridveil/ledger"
)

// ErrBorder means that the log of this member is sealed and the ledger goes on in
// its next shard, which is on disk here: close the node and open it again with
// that one. What raft has decided since is applied there.
var ErrBorder = errors.New("the ledger goes on in its next shard")

// Border is where a sealed log ends and the next shard of the ledger begins.
type Border struct {
	End    uint64 // entries of all shards up to it, at least 1
	Note   []byte // final checkpoint of the sealed log
	Policy string // by which it is final
}

// Shards are the logs of the ledger that a member has on disk. Its methods may be
// called from any goroutine, Cross only one at a time.
type Shards interface {
	// Crossed lists the borders behind the open shard, oldest first.
	Crossed() []Border
	// Cross makes durable that the open shard, whose state after its seal is m, is
	// done and the next one begins. Repeating it after a crash does no harm; its
	// error stops this member.
	Cross(m ledger.Machine, b Border) error
	// Entry reads an entry of a shard before the open one, counted over all shards.
	Entry(index uint64) ([]byte, error)
}

// maxBorderPolicy is the longest policy of a border in bytes.
const maxBorderPolicy = 64 << 10

// encode appends end:u64 len:u32 note len:u32 policy.
func (x Border) encode(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, x.End)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(x.Note))), x.Note...)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(x.Policy))), x.Policy...)
}

// parseBorder reads what encode appended, and gives what follows it.
func parseBorder(b []byte) (x Border, rest []byte, ok bool) {
	part := func(most uint32) (out []byte) {
		ok = len(b) >= 4 && binary.BigEndian.Uint32(b) <= most && int(binary.BigEndian.Uint32(b)) <= len(b)-4
		if ok {
			n := 4 + int(binary.BigEndian.Uint32(b))
			out, b = b[4:n], b[n:]
		}
		return out
	}
	if len(b) < 8 {
		return x, b, false
	}
	x.End, b = binary.BigEndian.Uint64(b), b[8:]
	if x.Note = part(ledger.MaxCheckpoint); ok {
		x.Policy = string(part(maxBorderPolicy))
	}
	return x, b, ok && x.End > 0
}

// parseBorders reads n:u8, at least 1, and as many borders that follow each other.
func parseBorders(b []byte) (list []Border, rest []byte, ok bool) {
	if len(b) == 0 || b[0] == 0 {
		return nil, b, false
	}
	n := int(b[0])
	b = b[1:]
	for end := uint64(0); len(list) < n; {
		var x Border
		if x, b, ok = parseBorder(b); !ok || x.End <= end {
			return nil, b, false
		}
		end, list = x.End, append(list, x)
	}
	return list, b, true
}

// Cross has the members go on to the next shard after the open one, which is
// sealed and final: all of it was acted on. It returns once this member has
// crossed, after which Serve ends with ErrBorder. It proposes no border that is not
// the end of the open shard. Its error is a writer.NotLeaderError if the lead was
// lost, after which the border may be crossed or not.
func (n *Node) Cross(b Border) error {
	if n.cfg.Shards == nil || len(b.Policy) > maxBorderPolicy || len(b.Note) > ledger.MaxCheckpoint {
		return fmt.Errorf("%w: this cluster keeps one log, or the border's policy is too long", ledger.ErrLimit)
	}
	own, root := n.size()
	if own != b.End {
		return fmt.Errorf("%w: a border at entry %d of %d", ledger.ErrState, b.End, own)
	}
	if err := n.ends(b); err != nil {
		return err
	}
	_, err := n.propose((&proposal{kind: kindCross, size: b.End, root: root, borders: []Border{b}}).encode())
	if errors.Is(err, ErrBorder) {
		return nil
	}
	return err
}

// applyCross ends the log of this member at the border. A border behind the open
// shard was crossed before a restart.
func (n *Node) applyCross(b Border) error {
	base := n.base()
	if b.End <= base {
		return errLate
	}
	if own, _ := n.size(); own != b.End {
		return fmt.Errorf("%w: the raft log crosses a border at entry %d, this store has %d", ledger.ErrDamaged, b.End, own)
	}
	return n.cross(b)
}

// cross goes beyond a border up to which everything is here; it returns ErrBorder
// when that is done.
func (n *Node) cross(b Border) (err error) {
	if n.cfg.Shards == nil {
		return fmt.Errorf("%w: a border of shards, which this member does not keep", ledger.ErrMalformed)
	}
	if err := n.ends(b); err != nil {
		return err
	}
	n.store().Read(func(m ledger.Machine) { err = n.cfg.Shards.Cross(m, b) })
	if err != nil {
		return fmt.Errorf("cross a border of the ledger: %w", err)
	}
	return ErrBorder
}

// ends checks that the log of this member is sealed and ends with the border's
// checkpoint.
func (n *Node) ends(b Border) error {
	policy, err := ledger.ParsePolicy([]byte(b.Policy))
	if err != nil {
		return fmt.Errorf("border of the ledger: %w", err)
	}
	c, err := policy.OpenFinal(b.Note)
	if err != nil {
		return fmt.Errorf("border of the ledger: %w", err)
	}
	if size, root := n.store().Size(); c.Size != size || c.Root != root {
		return fmt.Errorf("%w: the log ends here with another root than the border was signed with", ledger.ErrFork)
	}
	sealed := false
	n.store().Read(func(m ledger.Machine) { sealed = ledger.Sealed(m) != "" })
	if !sealed {
		return fmt.Errorf("%w: a border of a log that is not sealed", ledger.ErrState)
	}
	return nil
}

// crossed are the borders behind this member.
func (n *Node) crossed() []Border {
	if n.cfg.Shards == nil {
		return nil
	}
	return n.cfg.Shards.Crossed()
}

// reachBorder crosses the next of the borders that others have crossed, nil if
// there is none: it fetches the rest of the open log before.
func (n *Node) reachBorder(list []Border) error {
	base := n.base()
	i := slices.IndexFunc(list, func(b Border) bool { return b.End > base })
	if i < 0 {
		return nil
	}
	if own, _ := n.size(); own < list[i].End {
		c, err := (&ledger.Shard{Sealed: list[i].Note}).SealedBy()
		if err == nil {
			err = n.catchUp(list[i].End, c.Root)
		}
		if err != nil {
			return err
		}
	}
	return n.cross(list[i])
}

// entries calls f with entries that are counted over all shards.
func (n *Node) entries(from, to uint64, f func(raw []byte) error) error {
	base := n.base()
	for ; from < min(to, base); from++ {
		if n.cfg.Shards == nil {
			return fmt.Errorf("%w: entry %d of a shard that this member does not keep", ledger.ErrMalformed, from)
		}
		raw, err := n.cfg.Shards.Entry(from)
		if err == nil {
			err = f(raw)
		}
		if err != nil {
			return err
		}
	}
	if from == to {
		return nil
	}
	return n.store().Entries(from-base, to-base, func(_ uint64, raw []byte) error { return f(raw) })
}
