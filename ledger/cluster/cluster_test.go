package cluster_test

import (
	"bytes"
	"crypto/ed25519"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/cluster"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/writer"
)

var long = flag.Bool("long", false, "1000 failovers instead of a few")

// transfers is a log of genesis, a tick and n transfers between operators.
func transfers(t testing.TB, n int) *scene.Scene {
	t.Helper()
	s := scene.New(t, 1).Begin()
	s.Transfers(n)
	return s
}

// disruptions are what a leader suffers while entries come: its end before a
// durable step, a cut from the others, a disk that is slow until it is ended.
var disruptions = []string{"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "partition", "slow disk"}

// TestFailoversLoseNoEntryAndMakeNoSecondHistory is the promise of this package.
func TestFailoversLoseNoEntryAndMakeNoSecondHistory(t *testing.T) {
	runs, each := 1, 2
	if *long {
		runs, each = 91, len(disruptions)
	}
	var back []time.Duration
	for seed := range runs {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			back = append(back, failovers(t, uint64(seed), each)...)
		})
	}
	var sum, worst time.Duration
	for _, d := range back {
		sum, worst = sum+d, max(worst, d)
	}
	within := 0
	for _, d := range back {
		if d <= 2*election {
			within++
		}
	}
	if len(back) > 0 {
		t.Logf("%d failovers, service back after %v on average and %v at worst, %d within two election timeouts of %v", len(back),
			(sum / time.Duration(len(back))).Round(time.Millisecond), worst.Round(time.Millisecond), within, election)
	}
}

// failovers runs some disruptions one after the other and gives how long each
// kept the service away.
func failovers(t *testing.T, seed uint64, n int) (back []time.Duration) {
	const part = 60 // entries per failover
	const pace = 20 * time.Millisecond
	s := transfers(t, part*(n+1))
	f := newFleet(t, s, 3)
	rnd := rand.New(rand.NewPCG(seed, 0))
	order := rnd.Perm(len(disruptions))
	log := s.Log
	send := func(k int) {
		for k > 0 && len(log) > 0 {
			m := min(1+rnd.IntN(8), k, len(log))
			f.submit(log[:m])
			log, k = log[m:], k-m
		}
	}
	send(2 + part/2)
	for i := range n {
		what := disruptions[order[i%len(order)]]
		l := f.leader()
		hit := disrupt(f, l, what, 1+rnd.IntN(3))
		rest := part * (n - 1 - i) // for the failovers to come, however fast the disk is
		sent := make(chan struct{})
		done := make(chan struct{})
		go func() { // ended by sent
			defer close(done)
			for len(log) > rest {
				select {
				case <-sent:
					return
				case <-time.After(pace): // steps of a checkpoint come by the clock, not by entries
					send(1)
				}
			}
		}()
		var start time.Time
		select {
		case start = <-hit:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s does not happen", what)
		}
		if what != "partition" {
			l.kill()
		}
		f.leader(l)
		close(sent)
		<-done
		send(3)
		back = append(back, time.Since(start))
		if what == "partition" {
			f.part(l, false)
		} else {
			l.again()
		}
	}
	send(len(log))
	f.agree(uint64(len(s.Log)))
	return back
}

// disrupt arms a disruption; the channel gives when it happened.
func disrupt(f *fleet, l *member, what string, times int) <-chan time.Time {
	hit := make(chan time.Time, 1)
	switch what {
	case "partition":
		f.part(l, true)
		hit <- time.Now()
	case "slow disk":
		var once sync.Once
		l.failing(func(step string) error {
			if step == "W1" || step == "W3" {
				time.Sleep(50 * time.Millisecond)
				if times--; times < -4 {
					once.Do(func() { hit <- time.Now() })
				}
			}
			return nil
		})
	default:
		var mu sync.Mutex
		l.failing(func(step string) error {
			mu.Lock()
			defer mu.Unlock()
			if step != what {
				return nil
			}
			if times--; times == 0 {
				hit <- time.Now()
			}
			if times <= 0 {
				return errors.New("crash")
			}
			return nil
		})
	}
	return hit
}

// TestAMemberThatDoesNotLeadSaysWhoDoes: nothing is taken there, and reads work.
func TestAMemberThatDoesNotLeadSaysWhoDoes(t *testing.T) {
	s := transfers(t, 20)
	f := newFleet(t, s, 3)
	f.submit(s.Log)
	f.agree(uint64(len(s.Log)))
	l := f.leader()
	id := l.up().Status().Self
	for _, m := range f.members {
		if m == l {
			continue
		}
		var refused *writer.NotLeaderError
		eventually(t, "the leader is known", func() bool {
			r := m.up().Writer().Submit(t.Context(), s.Log[:1])[0]
			return errors.As(r.Err, &refused) && refused.Leader == id
		})
		if !errors.Is(refused, ledger.ErrBusy) {
			t.Error("the refusal is not one that is tried again")
		}
		f.tw.Net.Put(fmt.Sprint("node", m.no), m.up().Writer().Handler())
		if _, err := m.up().Writer().Proof(3); err != nil {
			t.Errorf("proof from a follower: %v", err)
		}
		if err := m.up().Add(f.list[0]); !errors.As(err, &refused) {
			t.Errorf("a follower changes the cluster: %v", err)
		}
	}
	f.tw.Net.Put(fmt.Sprint("node", l.no), l.up().Writer().Handler())
	c := writer.Client{HTTP: &http.Client{Transport: f.tw.Net}, Members: map[string]string{}}
	for i, m := range f.list {
		c.Members[m.ID] = fmt.Sprint("http://node", i)
	}
	for i := range f.list {
		c.URL = fmt.Sprint("http://node", i)
		if r, err := c.Submit(t.Context(), s.Log[:2]); err != nil || !r[1].Exists || r[1].Receipt.Index != 1 {
			t.Errorf("submitted to node %d: %+v, %v", i, r, err)
		}
	}
	c.URL = "http://nobody"
	if _, err := c.Submit(t.Context(), s.Log[:2]); err != nil {
		t.Errorf("a client does not try the next: %v", err)
	}
	if err := l.up().Remove(f.list[1].ID); !errors.Is(err, ledger.ErrLimit) {
		t.Errorf("a cluster of two: %v", err)
	}
}

// TestAMachineIsReplaced adds a member that needs entries raft no longer has, and
// takes another one out.
func TestAMachineIsReplaced(t *testing.T) {
	s := transfers(t, 300)
	f := newFleet(t, s, 3)
	f.submit(s.Log[:200])
	f.agree(200)
	l := f.leader()
	if err := l.up().Snapshot(); err != nil {
		t.Fatal(err)
	}
	m := f.newMember(3)
	ln := listen(t, m)
	m.open(ln)
	next := cluster.Member{ID: cluster.ID(m.key.Public().(ed25519.PublicKey)), Address: m.address}
	if err := f.leader().up().Add(next); err != nil {
		t.Fatal(err)
	}
	f.submit(s.Log[200:250])
	f.agree(250)
	signed := f.leader().up().Status().Signed
	eventually(t, "the new member knows what was signed", func() bool { return m.up().Status().Signed >= signed })
	l = f.leader()
	gone := f.members[0]
	if gone == l {
		gone = f.members[1]
	}
	if err := l.up().Remove(gone.up().Status().Self); err != nil {
		t.Fatal(err)
	}
	gone.kill()
	f.members = slices.DeleteFunc(f.members, func(x *member) bool { return x == gone })
	f.submit(s.Log[250:])
	f.agree(uint64(len(s.Log)))
	if got := len(f.leader().up().Status().Members); got != 3 {
		t.Errorf("%d members after a machine was replaced", got)
	}
	m.kill()
	m.again() // it starts from its own snapshot and the raft log
	f.agree(uint64(len(s.Log)))
}

// TestAStrangerIsNotSpokenTo: a key that is no member's gets nothing.
func TestAStrangerIsNotSpokenTo(t *testing.T) {
	s := transfers(t, 10)
	f := newFleet(t, s, 3)
	f.submit(s.Log)
	for _, proto := range []string{"gridveil-cluster-raft/1", "gridveil-cluster-fetch/1"} {
		key := s.Key()
		der, err := x509.CreateCertificate(crand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", f.members[0].address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto},
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		if err != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		conn.Write(make([]byte, 16)) // may fail already
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: a stranger gets %d bytes", proto, n)
		}
		conn.Close()
	}
}

func TestConfigsThatCannotBeMeant(t *testing.T) {
	s := scene.New(t, 1)
	key := s.Key()
	id := func() string { return cluster.ID(s.Key().Public().(ed25519.PublicKey)) }
	three := []cluster.Member{{ID: id(), Address: "a:1"}, {ID: id(), Address: "b:1"}, {ID: id(), Address: "c:1"}}
	good := cluster.Config{Dir: t.TempDir(), Key: key, Address: "a:1", Members: three}
	for what, change := range map[string]func(c *cluster.Config){
		"no folder":    func(c *cluster.Config) { c.Dir = "" },
		"no key":       func(c *cluster.Config) { c.Key = nil },
		"two members":  func(c *cluster.Config) { c.Members = three[:2] },
		"four members": func(c *cluster.Config) { c.Members = append(three[:3:3], cluster.Member{ID: id(), Address: "d:1"}) },
		"a twin":       func(c *cluster.Config) { c.Members = []cluster.Member{three[0], three[1], three[1]} },
		"no port":      func(c *cluster.Config) { c.Members = []cluster.Member{three[0], three[1], {ID: id(), Address: "c"}} },
		"a name for ID": func(c *cluster.Config) {
			c.Members = []cluster.Member{three[0], three[1], {ID: "carol", Address: "c:1"}}
		},
		"haste": func(c *cluster.Config) { c.ElectionTimeout = time.Millisecond },
	} {
		c := good
		change(&c)
		if n, err := cluster.Open(c); err == nil {
			n.Close()
			t.Errorf("%s is accepted", what)
		}
	}
}

func FuzzProposal(f *testing.F) {
	head := func(kind byte) []byte { return append([]byte("GVCL"), append([]byte{kind}, make([]byte, 40)...)...) }
	f.Add(append(head(1), 0, 3, 'a', 'b', 'c'))
	f.Add(head(2))
	f.Add(append(head(3), "note"...))
	f.Add(append(head(4), make([]byte, 80)...))
	f.Add(append(head(5), "change"...))
	border := append(append(binary.BigEndian.AppendUint64(nil, 9), 0, 0, 0, 1, 'n'), 0, 0, 0, 1, 'p')
	cross := append(head(6), border...)
	cross[12] = 9
	f.Add(cross)
	f.Add(append(append(append(head(7), make([]byte, 80)...), 1), border...))
	f.Add([]byte("GVCL"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := cluster.ParseProposal(b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x is read as %x", b, again)
		}
	})
}

func FuzzStanding(f *testing.F) {
	f.Add(make([]byte, 33))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := cluster.ParseStanding(b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x is read as %x", b, again)
		}
	})
}

func FuzzPart(f *testing.F) {
	f.Add([]byte{0, 0, 0, 5, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if raw, err := cluster.ReadPart(bytes.NewReader(b)); err == nil && raw == nil && binary.BigEndian.Uint32(b) != 0 {
			t.Error("an end that is none")
		}
	})
}

// TestAClusterThatLostItsLogSignsNothing: all machines come back empty, as from a
// wrong backup, and a witness shows the new leader what it signed before.
func TestAClusterThatLostItsLogSignsNothing(t *testing.T) {
	s := transfers(t, 30)
	f := newFleet(t, s, 3)
	f.submit(s.Log)
	f.agree(uint64(len(s.Log)))
	f.kill()
	for _, m := range f.members {
		for _, dir := range []string{m.dir(), m.dir() + "-cluster"} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.mu.Lock()
	left := len(f.roots)
	f.mu.Unlock()
	for _, m := range f.members {
		m.again()
	}
	eventually(t, "a leader stops", func() bool {
		for _, m := range f.members {
			if errors.Is(m.up().Status().Err, ledger.ErrDamaged) {
				return true
			}
		}
		return false
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.roots) != left {
		t.Error("a checkpoint was signed below what was signed before")
	}
}
