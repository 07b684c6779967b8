package ssn

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/mesh"
	"gridveil/mesh/mailbox"
	"gridveil/mesh/member"
	"gridveil/mesh/meshtest"
	"gridveil/node/role"
	"gridveil/node/store"
	"gridveil/privacy"
)

// town is three substations of three operators that keep mail in stores of their
// own, a home that sends and a wallet that may be away.
type town struct {
	t     *testing.T
	net   *meshtest.Network
	dirs  map[member.Key]string
	clock *meshtest.Clock

	mu     sync.Mutex // guards what follows
	stores map[member.Key]*store.Store
	mails  map[member.Key]*mail
	heard  map[member.Key][][]byte // what a substation's handler got
}

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{t: t, dirs: map[member.Key]string{}, mails: map[member.Key]*mail{}, stores: map[member.Key]*store.Store{}, heard: map[member.Key][][]byte{}}
	w.net = meshtest.Start(t, meshtest.Options{SSNs: 3, Homes: 1, Wallets: 1, Onion: true, Policy: member.Policy{Lab: true}, Ready: w.equip})
	w.net.AwaitDirectory()
	for _, leaf := range []*meshtest.Node{w.sender(), w.recipient()} {
		meshtest.Eventually(t, "leaves know the keepers", func() bool { return len(leaf.Onion.Keepers()) == 3 })
	}
	t.Cleanup(func() {
		for _, st := range w.stores {
			st.Close()
		}
	})
	return w
}

func (w *town) sender() *meshtest.Node    { return w.net.Homes[0] }
func (w *town) recipient() *meshtest.Node { return w.net.Wallets[0] }

// equip lets a substation keep mail.
func (w *town) equip(n *meshtest.Node) error {
	if n.Member.Role != member.RoleSSN {
		return nil
	}
	key := n.Member.Key
	w.dirs[key] = w.t.TempDir()
	w.clock = n.Net.Clock
	if err := w.revive(key); err != nil {
		return err
	}
	n.Onion.Handle(mesh.Mailbox, func(ctx context.Context, body []byte) ([]byte, error) {
		w.mu.Lock()
		m := w.mails[key]
		w.heard[key] = append(w.heard[key], bytes.Clone(body))
		w.mu.Unlock()
		return m.answer(ctx, body)
	})
	return nil
}

// revive opens a substation's store and reads its mail from there, as every start
// does; what was in memory is gone.
func (w *town) revive(key member.Key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.stores[key]; old != nil {
		if err := old.Close(); err != nil {
			return err
		}
	}
	mk, err := store.LoadOrCreateKey(w.dirs[key] + "/key")
	if err != nil {
		return err
	}
	st, err := store.Open(w.dirs[key]+"/store", mk, store.Options{MinFree: -1})
	if err != nil {
		return err
	}
	w.stores[key] = st
	k, err := mailbox.NewKeeper(key, mailStore{st})
	if err != nil {
		return err
	}
	w.mails[key] = &mail{&role.Env{Clock: w.clock, Log: slog.New(slog.DiscardHandler)}, k}
	return nil
}

// client asks keepers from a node by onion.
func (w *town) client(n *meshtest.Node) mailbox.Client {
	return mailbox.Client{Now: w.net.Clock.Now, Rand: rand.Reader, Net: privacy.Net(w.net.Bundle.Tag()),
		Call: func(ctx context.Context, keeper mailbox.Key, req []byte) ([]byte, error) {
			return n.Onion.Call(ctx, keeper, mesh.Lab, mesh.Mailbox, req)
		}}
}

// again repeats a step until it is acknowledged, as an outbox does.
func (w *town) again(what string, step func() error) {
	w.t.Helper()
	var err error
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		if err = step(); err == nil {
			return
		}
	}
	w.t.Fatalf("%s: %v", what, err)
}

// refuses repeats a step until it ends in the wanted error: a busy machine may
// lose an answer or be late for a request's window.
func (w *town) refuses(what string, want error, step func() error) {
	w.t.Helper()
	w.again(what, func() error {
		err := step()
		if errors.Is(err, want) {
			return nil
		}
		return fmt.Errorf("got %v, want %v", err, want)
	})
}

func (w *town) put(o *mailbox.Owner, msg string) {
	w.t.Helper()
	a := o.Address()
	req, err := a.Put(rand.Reader, privacy.Net(w.net.Bundle.Tag()), []byte(msg))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, keeper := range a.Keepers {
		w.again("put", func() error {
			raw, err := w.client(w.sender()).Call(w.t.Context(), keeper, req)
			if err != nil {
				return err
			}
			answer, err := mailbox.ParseAnswer(raw)
			return errors.Join(err, answer.Status.Err())
		})
	}
}

func (w *town) owner() *mailbox.Owner {
	w.t.Helper()
	var list []mailbox.Candidate
	for _, m := range w.recipient().Onion.Keepers() {
		list = append(list, mailbox.Candidate{Key: m.Key, Operator: m.Operator})
	}
	keepers, err := mailbox.Choose(list, rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	o, err := mailbox.NewOwner(rand.Reader, keepers)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, k := range keepers {
		w.again("open", func() error { return w.client(w.recipient()).Open(w.t.Context(), o, k, 7) })
	}
	return o
}

func TestWhoWasAwayGetsEachItemOnceAlsoFromAKeeperThatDied(t *testing.T) {
	w := newTown(t)
	o := w.owner()
	w.recipient().Stop()
	w.put(o, "first marker item")
	if err := w.revive(o.Keepers[0]); err != nil {
		t.Fatal(err)
	}
	w.put(o, "second marker item")
	if err := w.recipient().Start(); err != nil {
		t.Fatal(err)
	}
	w.net.AwaitConnected()
	w.net.AwaitDirectory()
	var got []string
	for range 2 { // the second visit finds nothing
		for _, k := range o.Keepers {
			w.again("fetch", func() error {
				return w.client(w.recipient()).Fetch(t.Context(), o, k, func(msg []byte) error {
					got = append(got, string(msg))
					return nil
				})
			})
		}
	}
	if want := []string{"first marker item", "second marker item"}; !slices.Equal(got, want) {
		t.Errorf("taken %q, want %q", got, want)
	}
	w.seesNobody(o)
	for _, k := range o.Keepers {
		w.again("close", func() error { return w.client(w.recipient()).Close(t.Context(), o, k) })
	}
}

// seesNobody looks for sender, recipient and content in all that substations
// stored and were given.
func (w *town) seesNobody(o *mailbox.Owner) {
	w.t.Helper()
	marks := map[string][]byte{"content": []byte("marker"), "opening key": o.Secret, "signing key": o.Seed[:]}
	for name, n := range map[string]*meshtest.Node{"sender": w.sender(), "recipient": w.recipient()} {
		marks[name+"'s key"] = n.Member.Key[:]
		marks[name+"'s peer id"] = []byte(n.Member.Peer)
		marks[name+"'s name"] = []byte(n.Member.Peer.String())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := 0
	look := func(what string, b []byte) {
		seen++
		for name, mark := range marks {
			if bytes.Contains(b, mark) {
				w.t.Errorf("%s shows the %s", what, name)
			}
		}
	}
	for key, st := range w.stores {
		for _, b := range w.heard[key] {
			look("a request", b)
		}
		err := st.View(func(tx *store.Tx) error {
			return tx.Each(store.SpaceMail.Key(), func(k, v []byte) error {
				look("the store", append(bytes.Clone(k), v...))
				return nil
			})
		})
		if err != nil {
			w.t.Error(err)
		}
	}
	if seen < 10 {
		w.t.Errorf("only %d things were looked at", seen)
	}
}

func TestMailIsForLeavesAndServedBySubstations(t *testing.T) {
	w := newTown(t)
	o := w.owner()
	a := o.Address()
	req, err := a.Put(rand.Reader, privacy.Net(w.net.Bundle.Tag()), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []member.Role{member.RoleHeadend, member.RoleUtility, member.RoleAggregator, member.RoleVerifier, member.RoleGateway, member.RoleWallet} {
		if mesh.Mailbox.Allowed(member.RoleGateway, r) {
			t.Errorf("role %v is asked for mailboxes", r)
		}
	}
	if mesh.Mailbox.Class() != mesh.Meter {
		t.Errorf("class %v, want meter: when a box is used must not show on a line", mesh.Mailbox.Class())
	}
	if _, err := w.sender().Onion.Call(t.Context(), o.Keepers[0], mesh.Session, mesh.Mailbox, req); !errors.Is(err, mesh.ErrNotAllowed) {
		t.Errorf("by class session: %v", err)
	}
	keeper, client := o.Keepers[0], w.client(w.recipient())
	w.refuses("box for no days", mailbox.ErrRefused, func() error { return client.Open(t.Context(), o, keeper, 0) })
	other, err := mailbox.NewOwner(rand.Reader, o.Keepers)
	if err != nil {
		t.Fatal(err)
	}
	w.refuses("box that was never opened", mailbox.ErrUnknown, func() error { return client.Fetch(t.Context(), other, keeper, nil) })
	ahead := client
	ahead.Now = func() time.Time { return w.net.Clock.Now().Add(24 * time.Hour) }
	w.refuses("clock a day ahead", mailbox.ErrClock, func() error { return ahead.Open(t.Context(), o, keeper, 1) })
}

// The node's store under a keeper: an update that the store refuses changes
// nothing, and the keeper goes on when it works again.
func TestMailOutlivesItsStoreBeingClosed(t *testing.T) {
	dir := t.TempDir()
	mk, err := store.LoadOrCreateKey(dir + "/key")
	if err != nil {
		t.Fatal(err)
	}
	open := func() (*store.Store, *mailbox.Keeper) {
		t.Helper()
		st, err := store.Open(dir+"/store", mk, store.Options{MinFree: -1})
		if err != nil {
			t.Fatal(err)
		}
		k, err := mailbox.NewKeeper(mailbox.Key{1}, mailStore{st})
		if err != nil {
			t.Fatal(err)
		}
		return st, k
	}
	st, k := open()
	client := mailbox.Client{Now: func() time.Time { return meshtest.Epoch }, Rand: rand.Reader,
		Call: func(_ context.Context, _ mailbox.Key, req []byte) ([]byte, error) {
			return k.Answer(req, meshtest.Epoch), nil
		}}
	o, err := mailbox.NewOwner(rand.Reader, [2]mailbox.Key{{1}, {2}})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Open(t.Context(), o, o.Keepers[0], 1); err != nil {
		t.Fatal(err)
	}
	a := o.Address()
	for i := range 5 {
		req, err := a.Put(rand.Reader, privacy.Net{}, fmt.Append(nil, i))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := client.Call(t.Context(), o.Keepers[0], req)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := mailbox.ParseAnswer(raw); err != nil || got.Status != mailbox.OK {
			t.Fatalf("put %d: %v, %v", i, got.Status.Err(), err)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		if err := client.Open(t.Context(), o, o.Keepers[0], 1); !errors.Is(err, mailbox.ErrBusy) {
			t.Errorf("with the store closed: %v", err)
		}
		st, k = open()
	}
	defer func() { st.Close() }()
	var got []string
	err = client.Fetch(t.Context(), o, o.Keepers[0], func(msg []byte) error {
		got = append(got, string(msg))
		return nil
	})
	if err != nil || !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("got %q, %v", got, err)
	}
}
