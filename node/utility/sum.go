package utility

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/ask"
	"gridveil/node/keys"
	"gridveil/node/metering"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
	"gridveil/privacy/agg"
	"gridveil/privacy/pseudo"
)

// Parameters of the tasks that a grid operator announces.
const (
	sumUnit    = 1000 // mWh: whole watt-hours
	labBatch   = 2    // smallest batch where the network allows class lab; the pages say so
	sumPeriod  = 10 * time.Minute
	sumAhead   = 24 * time.Hour       // next week's task is announced that long before it begins
	sumKept    = 400 * 24 * time.Hour // 13 months, as other states of the grid
	maxZoneSum = 7 * 96               // results given at once: a week
)

// quantities that are summed: the transformer's meter shows their difference.
var quantities = []agg.Quantity{agg.Import, agg.Export}

// sums is the grid operator's side of private sums: it announces the tasks of
// the zones that it runs and receives their results.
type sums struct {
	env  *role.Env
	join metering.SumJoin
	poke chan struct{}

	mu    sync.Mutex
	tasks map[[16]byte]agg.Task
	told  map[[16]byte]map[[32]byte]bool // servers that hold a task
}

func openSums(env *role.Env) (*sums, error) {
	s := &sums{env: env, poke: make(chan struct{}, 1), tasks: map[[16]byte]agg.Task{}, told: map[[16]byte]map[[32]byte]bool{}}
	err := env.Store.View(func(tx *store.Tx) error {
		return tx.Each(store.SpaceOrder.Key([]byte("sum")), func(_, v []byte) error {
			t, err := agg.ParseTask(v)
			s.tasks[t.ID] = t
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("tasks of private sums: %w", err)
	}
	env.Host.Handle(mesh.AggPrep, s.take)
	return s, nil
}

// serve announces tasks until ctx ends.
func (s *sums) serve(ctx context.Context) error {
	for {
		now := s.env.Clock.Now()
		err := errors.Join(s.plan(now), s.plan(now.Add(sumAhead)), s.forget(now))
		if err != nil {
			return err
		}
		s.announce(ctx, now)
		select {
		case <-ctx.Done():
			return nil
		case <-s.poke:
		case <-s.env.Clock.After(sumPeriod):
		}
	}
}

// plan makes the tasks of the week that holds now, once the servers are known.
func (s *sums) plan(now time.Time) error {
	b := s.env.Host.Bundle()
	for _, z := range b.Zones {
		if !b.IsDSO(s.env.Host.Self(), z.Name) {
			continue
		}
		for _, q := range quantities {
			if err := s.planOne(z.Name, q, now); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sums) planOne(zone string, q agg.Quantity, now time.Time) error {
	number, _ := metering.ZoneNumber(s.env.Host.Bundle(), zone)
	from := pseudo.Week(now) * 7
	t := agg.Task{ID: s.taskID(number, q, from), Zone: number, Quantity: q, Unit: sumUnit, Max: agg.MaxReading, MinBatch: agg.MinBatch,
		DSO: s.env.Operator(s.env.Host.Self().Operator), From: from, To: from + 7}
	s.mu.Lock()
	_, have := s.tasks[t.ID]
	s.mu.Unlock()
	if have {
		return nil
	}
	leader, helper, ok := s.servers(zone)
	if !ok {
		return nil // no two substations of different operators yet
	}
	t.Leader, t.Helper = leader, helper
	if s.env.Lab() {
		t.MinBatch = labBatch
	}
	t.Sign(s.env.Net, s.env.ID.Key)
	if err := s.env.Store.Set(store.SpaceOrder.Key([]byte("sum"), t.ID[:]), t.Bytes()); err != nil {
		return fmt.Errorf("keep task: %w", err)
	}
	s.mu.Lock()
	s.tasks[t.ID] = t
	s.mu.Unlock()
	return nil
}

// taskID allows one task for a zone, quantity and week: two could be subtracted.
func (s *sums) taskID(zone uint16, q agg.Quantity, from uint32) [16]byte {
	b := append([]byte("gridveil/sum/task/1"), s.env.Net[:]...)
	b = append(binary.BigEndian.AppendUint16(b, zone), byte(q))
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(b, from))
	return [16]byte(sum[:])
}

// servers are the zone's substation and one of another operator, if possible
// not this one.
func (s *sums) servers(zone string) (leader, helper [32]byte, ok bool) {
	all := s.env.Dir.All(member.RoleSSN, "")
	all = slices.DeleteFunc(all, func(h keys.Holder) bool {
		_, ready := h.Sheet.At(keys.Sum, s.env.Clock.Now())
		return !ready
	})
	i := slices.IndexFunc(all, func(h keys.Holder) bool { return h.Member.Zone == zone })
	if i < 0 {
		return leader, helper, false
	}
	own := s.env.Host.Self().Operator
	for _, h := range all {
		if h.Member.Operator == all[i].Member.Operator {
			continue
		}
		if !ok || h.Member.Operator != own {
			helper, ok = h.Member.Key, true
		}
		if h.Member.Operator != own {
			break
		}
	}
	return all[i].Member.Key, helper, ok
}

// announce gives each task to both of its servers until they hold it.
func (s *sums) announce(ctx context.Context, now time.Time) {
	for _, t := range s.current(now) {
		for _, server := range [][32]byte{t.Leader, t.Helper} {
			if !s.knows(t.ID, server) && s.tell(ctx, t, server) {
				s.mu.Lock()
				s.told[t.ID][server] = true
				s.mu.Unlock()
			}
		}
	}
}

func (s *sums) current(now time.Time) (out []agg.Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if pseudo.Day(now) < t.To {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b agg.Task) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return out
}

func (s *sums) knows(task [16]byte, server [32]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[task] == nil {
		s.told[task] = map[[32]byte]bool{}
	}
	return s.told[task][server]
}

func (s *sums) tell(ctx context.Context, t agg.Task, server [32]byte) bool {
	id, err := member.Key(server).Peer()
	if err != nil {
		return false // it was a member's key when the task was made
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = metering.SendSum(ctx, func(ctx context.Context, b []byte) ([]byte, error) {
		return s.env.Host.Call(ctx, id, mesh.AggPrep, b)
	}, metering.SumTask, t.Bytes())
	if err != nil {
		s.env.Log.Debug("task of a private sum not yet placed", "err", err)
	}
	return err == nil
}

// forget drops tasks and results that nobody asks for any more.
func (s *sums) forget(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.env.Store.Update(func(tx *store.Tx) error {
		for id, t := range s.tasks {
			if pseudo.Day(now) < t.To+7 {
				continue
			}
			if err := tx.Delete(store.SpaceOrder.Key([]byte("sum"), id[:])); err != nil {
				return err
			}
			delete(s.tasks, id)
			delete(s.told, id)
		}
		oldest := agg.Interval(now.Add(-sumKept))
		var gone [][]byte
		prefix := sumPrefix()
		err := tx.Each(prefix, func(k, _ []byte) error {
			if len(k) == len(prefix)+2+4+1 && binary.BigEndian.Uint32(k[len(prefix)+2:]) < oldest {
				gone = append(gone, k)
			}
			if len(gone) >= maxForget {
				return store.ErrStop
			}
			return nil
		})
		for _, k := range gone {
			err = errors.Join(err, tx.Delete(k))
		}
		return err
	})
}

// take receives a result from the leader of its task.
func (s *sums) take(_ context.Context, from mesh.Member, frame []byte) ([]byte, error) {
	step, whole, err := s.join.Take(from.Key, frame)
	switch {
	case err != nil || whole == nil:
	case step != metering.SumDeliver:
		err = fmt.Errorf("%w: step %d is not for a grid operator", metering.ErrMessage, step)
	default:
		err = s.deliver(from, whole)
	}
	return metering.SumAnswer(nil, err), nil
}

// deliver checks a result as any stranger could, and keeps it.
func (s *sums) deliver(from mesh.Member, whole []byte) error {
	d, err := metering.ParseSumDelivery(whole)
	if err != nil {
		return err
	}
	s.mu.Lock()
	t, ok := s.tasks[d.Result.Task]
	s.mu.Unlock()
	if !ok || from.Key != t.Leader {
		return agg.ErrTask
	}
	total, err := agg.Check(s.env.Net, privacy.SuiteX25519, &t, ask.Operators{Env: s.env}.Escrows(), &d.Result, d.List)
	if errors.Is(err, pseudo.ErrIssuer) {
		return metering.ErrSumLater // an escrow's key has not come yet
	}
	if err != nil {
		s.env.Log.Warn("result of a private sum refused", "err", err)
		return err
	}
	row := zoneRow{N: d.Result.N, MWh: int64(total) * int64(t.Unit), Feeder: d.Feeder}
	if err := s.env.Store.Set(sumKey(t.Zone, d.Result.Interval, t.Quantity), append(row.encode(), d.Result.Bytes()...)); err != nil {
		return metering.ErrSumLater
	}
	return nil
}

func sumPrefix() []byte { return store.SpaceReading.Key([]byte("zonesum")) }

func sumKey(zone uint16, interval uint32, q agg.Quantity) []byte {
	return append(sumPrefix(), store.SpaceReading.Key(store.U16(zone), binary.BigEndian.AppendUint32(nil, interval), []byte{byte(q)})[1:]...)
}

// zoneRow is one result: n u32 | energy i64 mWh | has feeder u8 | feeder i64, and the signed result behind it.
type zoneRow struct {
	N      uint32
	MWh    int64
	Feeder *int64
}

const zoneRowSize = 4 + 8 + 1 + 8

func (r zoneRow) encode() []byte {
	b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, r.N), uint64(r.MWh))
	if r.Feeder == nil {
		return append(b, make([]byte, 9)...)
	}
	return binary.BigEndian.AppendUint64(append(b, 1), uint64(*r.Feeder))
}

func decodeZoneRow(b []byte) (zoneRow, error) {
	if len(b) < zoneRowSize {
		return zoneRow{}, fmt.Errorf("%w: sum of %d bytes", store.ErrDamaged, len(b))
	}
	r := zoneRow{N: binary.BigEndian.Uint32(b), MWh: int64(binary.BigEndian.Uint64(b[4:]))}
	if b[12] == 1 {
		v := int64(binary.BigEndian.Uint64(b[13:]))
		r.Feeder = &v
	}
	return r, nil
}

// ZoneSum is what the grid operator learned of one zone and quarter hour.
type ZoneSum struct {
	Zone      string
	From      time.Time // and 15 minutes from there
	Homes     int       // in the sum; the fewer of the two, where both came
	ImportMWh *int64    // nil until that sum came
	ExportMWh *int64
	FeederMWh *int64 // the transformer's meter, net import into the zone; nil without one
}

// Residual is what the transformer delivered beyond what the homes report: line
// losses, and whoever is not in the sum. ok is false until all three are known.
func (z ZoneSum) Residual() (mWh int64, ok bool) {
	if z.ImportMWh == nil || z.ExportMWh == nil || z.FeederMWh == nil {
		return 0, false
	}
	return *z.FeederMWh - (*z.ImportMWh - *z.ExportMWh), true
}

// Sums are the results of a zone since an instant, oldest first, at most a week.
func (u *Utility) Sums(zone string, since time.Time) (out []ZoneSum, err error) {
	number, ok := metering.ZoneNumber(u.env.Host.Bundle(), zone)
	if !ok {
		return nil, fmt.Errorf("no zone of that name: %q", zone)
	}
	prefix := append(sumPrefix(), store.U16(number)...)
	from := binary.BigEndian.AppendUint32(slices.Clone(prefix), agg.Interval(since))
	err = u.env.Store.View(func(tx *store.Tx) error {
		return tx.EachFrom(prefix, from, func(k, v []byte) error {
			row, err := decodeZoneRow(v)
			if err != nil || len(k) != len(prefix)+5 {
				return err
			}
			begin := agg.Begin(binary.BigEndian.Uint32(k[len(prefix):]))
			if n := len(out); n == 0 || !out[n-1].From.Equal(begin) {
				if n == maxZoneSum {
					return store.ErrStop
				}
				out = append(out, ZoneSum{Zone: zone, From: begin, Homes: int(row.N)})
			}
			out[len(out)-1].add(agg.Quantity(k[len(k)-1]), row)
			return nil
		})
	})
	return out, err
}

func (z *ZoneSum) add(q agg.Quantity, row zoneRow) {
	z.Homes = min(z.Homes, int(row.N))
	if row.Feeder != nil {
		z.FeederMWh = row.Feeder
	}
	if q == agg.Import {
		z.ImportMWh = &row.MWh
	} else {
		z.ExportMWh = &row.MWh
	}
}
