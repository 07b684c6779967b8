package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/mesh/member"
	"gridveil/node/identity"
	"gridveil/node/store"
	"gridveil/node/utility"
	"gridveil/privacy/session"
)

// TestWholeDayHoldsAndTellsNobodyWho lives the day of `gridveil demo --once` and
// then reads everything that each party kept, with that party's own key, and
// everything that anybody logged: who must not learn something must not have it.
func TestWholeDayHoldsAndTellsNobodyWho(t *testing.T) {
	if testing.Short() {
		t.Skip("a whole day takes a minute or more")
	}
	book := new(logBook)
	s, err := Build(Options{Homes: 6, Speed: OnceSpeed, Seed: 11, Dir: t.TempDir() + "/day", Log: slog.New(book.handler())})
	if err != nil {
		t.Fatal(err)
	}
	var sum *Summary
	var names map[string]string
	var known marks
	var net [8]byte
	var ears *heard
	err = s.run(t.Context(), func(ctx context.Context, st *Story) error {
		ears = hear(s)
		if err := s.settleIn(ctx, st); err != nil {
			return err
		}
		if err := ears.during(ctx, s, st.Day); err != nil {
			return err
		}
		if err := st.Settle(ctx); err != nil {
			return err
		}
		if names, err = namesOf(s); err != nil {
			return err
		}
		ears.ask(t, s)
		known, net = marksOfMembers(t, s), s.Get("evagg").Node().Net
		sum, err = s.judge(ctx, st)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(sum)
	if broken := sum.Broken(); len(broken) > 0 {
		t.Errorf("invariants that do not hold: %v", broken)
	}
	known = append(known, marksOfSessions(t, s, net)...)
	loads, wh := marksOfLoads(t, s)
	known = append(known, loads...)
	for _, who := range slices.Sorted(maps.Keys(mayKnow)) {
		t.Run(who, func(t *testing.T) { checkView(t, s, who, known) })
	}
	t.Run("nothing leaves the battery", ears.wantNothing)
	t.Run("logs", func(t *testing.T) {
		wantNoneOf(t, names, book.text())
		wantNoneOf(t, wh, book.text())
	})
	t.Run("export", func(t *testing.T) {
		v := new(view)
		v.files(t, filepath.Join(s.Dir, "export"))
		for _, m := range known {
			if v.holds(m.value) {
				t.Errorf("the exported ledger holds %v", m)
			}
		}
	})
}

// mark is something by which a person, a place or a session is recognised.
type mark struct {
	kind     string
	of       string // member that it belongs to
	value    []byte
	disputed bool // of the day's first session, which is opened lawfully before those who vote
}

func (m mark) String() string { return m.kind + " of " + m.of }

type marks []mark

// Kinds of marks.
const (
	kindMember   = "member key"
	kindPeer     = "peer id"
	kindContract = "driver's contract"
	kindPoint    = "usage point"
	kindSerial   = "meter's serial"
	kindMeter    = "wallbox's meter key"
	kindSession  = "session's name"
	kindHostKey  = "session key of the host"
	kindSpk      = "session key of the driver"
	kindLoad     = "true load"
)

// mayKnow says of whom a party may know what; everything else it must not hold.
// must is something that it does know, so that a blind scan is noticed.
var mayKnow = map[string]struct {
	must string
	may  func(m mark) bool
}{
	// Uta bills the homes; who came to charge, and that anybody did, it does not learn.
	"utility-a": {kindPoint, func(m mark) bool { return m.metered() || m.disputed }},
	// Utb bills the drivers; it never learns where they were. The disputed session it opened as the driver's utility.
	"utility-b": {kindContract, func(m mark) bool { return m.driver() && m.kind != kindSpk || m.disputed }},
	// EVAGG settles sessions; it learns neither host nor driver.
	"evagg": {kindSession, func(m mark) bool {
		return m.kind == kindSession || m.kind == kindHostKey || m.kind == kindSpk || m.kind == kindMeter || m.disputed
	}},
	// Ua sees the session at its own wallbox, under keys that are used once.
	"home-2": {kindSession, func(m mark) bool { return m.of == "home-2" || m.kind == kindSpk }},
	"home-4": {kindSession, func(m mark) bool { return m.of == "home-4" || m.kind == kindSpk }},
	// Ub knows the house that it stood at, but not as what the house is enrolled.
	"driver-1": {kindSession, func(m mark) bool {
		return m.of == "driver-1" || m.kind == kindSession || m.kind == kindHostKey || m.kind == kindMeter
	}},
	// Head-end and substations carry reports of homes; of sessions they see packets.
	"headend": {kindPoint, mark.metered},
	"ssn-oak": {"", mark.metered},
	// Verifiers see the ledger, and the file of a case that they vote on.
	"watchdog": {kindHostKey, func(m mark) bool { return m.disputed }},
}

func (m mark) driver() bool { return strings.HasPrefix(m.of, "driver-") }

// metered says whether a mark is of a home as a customer of its utility.
func (m mark) metered() bool {
	return strings.HasPrefix(m.of, "home-") && m.kind != kindSession && m.kind != kindHostKey && m.kind != kindMeter && m.kind != kindLoad
}

func checkView(t *testing.T, s *Scene, who string, known marks) {
	v := new(view)
	v.store(t, s.Get(who).Dir)
	rule, found := mayKnow[who], false
	for _, m := range known {
		held := v.holds(m.value)
		found = found || held && m.kind == rule.must
		if held && !rule.may(m) {
			t.Errorf("it holds the %v", m)
		}
	}
	if rule.must != "" && !found {
		t.Errorf("it holds no %s, which it knows: the scan is blind", rule.must)
	}
}

// marksOfMembers lists what identifies homes and drivers for longer than a session.
func marksOfMembers(t *testing.T, s *Scene) (out marks) {
	for _, m := range s.Members {
		if !m.Role.Leaf() {
			continue
		}
		id, err := identity.Load(m.Dir, s.Clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, mark{kind: kindMember, of: m.Name, value: id.Member.Key[:]}, mark{kind: kindPeer, of: m.Name, value: []byte(id.Member.Peer.String())})
		if c := s.contracts[m.Name]; c != "" {
			b, err := hex.DecodeString(c)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, mark{kind: kindContract, of: m.Name, value: b, disputed: m.Name == "driver-1"})
		}
		if m.Role != member.RoleGateway {
			continue
		}
		out = append(out, mark{kind: kindSerial, of: m.Name, value: []byte(s.gateway(m).Serial())})
		if up, ok := s.Get("utility-a").Node().Role.(*utility.Utility).PointOf(id.Member.Key); ok {
			out = append(out, mark{kind: kindPoint, of: m.Name, value: up[:]})
		}
		if m.Home.Wallbox != nil {
			key, err := m.Home.Wallbox.CP.PublicKey()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, mark{kind: kindMeter, of: m.Name, value: key})
		}
	}
	return out
}

// marksOfSessions reads the one-time names of sessions where hosts and wallets
// keep them. Nodes must be stopped.
func marksOfSessions(t *testing.T, s *Scene, net [8]byte) (out marks) {
	for _, m := range s.Members {
		if !m.Role.Leaf() {
			continue
		}
		each(t, m.Dir, func(_, value []byte) {
			var x struct {
				Begun        int64
				Host, Driver []byte
			}
			if json.Unmarshal(value, &x) != nil {
				return
			}
			add := func(kind string, value [32]byte) {
				out = append(out, mark{kind: kind, of: m.Name, value: value[:], disputed: disputedAt(m.Name, x.Begun)})
			}
			if h, err := session.LoadHost(session.HostConfig{Net: net}, x.Host); err == nil && len(x.Host) > 0 {
				add(kindSession, h.Session())
				add(kindHostKey, h.Offer().HPK)
			}
			if d, err := session.LoadDriver(session.DriverConfig{Net: net}, x.Driver); err == nil && len(x.Driver) > 0 {
				if o, err := session.ParseOpen(d.Opening()[:session.OpenSize]); err == nil {
					add(kindSpk, o.SPK)
				}
			}
		})
	}
	if len(out) < 3*5 {
		t.Fatalf("%d marks of sessions: fewer than sessions there were", len(out))
	}
	return out
}

// marksOfLoads reads what masks remember of the true load of their homes: half an
// hour of it each, and every five minutes as text. Nodes must be stopped.
func marksOfLoads(t *testing.T, s *Scene) (out marks, text map[string]string) {
	text = map[string]string{}
	charges, levels := 0, 0
	prefix := store.SpaceBattery.Key([]byte("demand/"))
	const entry = 6 // minute u16, Wh float32
	for _, m := range s.Of(member.RoleGateway) {
		each(t, m.Dir, func(key, value []byte) {
			switch {
			case bytes.Equal(key, store.SpaceBattery.Key([]byte("house"))) && len(value) == 72:
				out = append(out, mark{kind: kindLoad, of: m.Name, value: bytes.Clone(value[56:])}) // registers of true load and charge
				charges++
			case bytes.Equal(key, store.SpaceBattery.Key([]byte("mask"))):
				for name, v := range marksOfMask(t, value) {
					out = append(out, mark{kind: kindLoad, of: m.Name, value: []byte(v)})
					text[name+" of "+m.Name] = v
					levels++
				}
			}
			if !bytes.HasPrefix(key, prefix) || len(value) < 6*entry {
				return
			}
			out = append(out, mark{kind: kindLoad, of: m.Name, value: bytes.Clone(value[:6*entry])})
			for i := 0; i+entry <= len(value); i += entry {
				if wh := math.Float32frombits(binary.BigEndian.Uint32(value[i+2:])); wh > 100 { // smaller ones look like the seconds of a time
					text[fmt.Sprintf("load of %s, block %d", m.Name, i/entry)] = fmt.Sprintf("%.5f", wh)
				}
			}
		})
	}
	if len(out) == 0 || charges == 0 || levels == 0 {
		t.Fatalf("no mask remembers anything: the scan is blind (%d marks, %d charges, %d levels)", len(out), charges, levels)
	}
	return out, text
}

// marksOfMask are the level that the mask drew and the account of the true load, as
// they are written; only numbers long enough to be told from any other.
func marksOfMask(t *testing.T, stored []byte) map[string]string {
	t.Helper()
	var x struct {
		State struct{ Base, Shown, Day json.RawMessage }
	}
	var day struct{ LoadWh, ExposedWh json.RawMessage }
	if err := errors.Join(json.Unmarshal(stored, &x), json.Unmarshal(x.State.Day, &day)); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, v := range map[string]json.RawMessage{"level": x.State.Base, "what the mask shows": x.State.Shown, "true load of the day": day.LoadWh, "exposed energy": day.ExposedWh} {
		if len(v) >= 12 {
			out[name] = string(v)
		}
	}
	return out
}

// disputedAt says whether a session is the last of the day's plan that ends before
// the quarrel, which the story disputes.
func disputedAt(of string, begun int64) bool {
	var v visit
	for _, x := range plan {
		if x.at+x.stay < quarrelAt {
			v = x
		}
	}
	who := of == fmt.Sprintf("home-%d", v.home) || of == fmt.Sprintf("driver-%d", v.driver)
	return who && time.UnixMilli(begun).Before(Start.Add(v.at+v.stay))
}

// view is everything that a party holds, in the clear.
type view struct{ raw, lower bytes.Buffer }

// store adds keys and values of a node's store, and its plain files.
func (v *view) store(t *testing.T, dir string) {
	each(t, dir, func(key, value []byte) { v.add(key); v.add(value) })
	v.files(t, dir)
}

// files adds what lies in a folder, but not the sealed store.
func (v *view) files(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		v.add(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// add keeps a value and, where it is JSON, the bytes that stand in it as text or
// as lists of numbers.
func (v *view) add(b []byte) {
	v.keep(b)
	var x any
	if len(b) > 0 && strings.ContainsRune("{[\"", rune(b[0])) && json.Unmarshal(b, &x) == nil {
		v.decode(x)
	}
}

func (v *view) decode(x any) {
	switch x := x.(type) {
	case map[string]any:
		for k, y := range x {
			v.decode(k)
			v.decode(y)
		}
	case []any:
		raw := make([]byte, 0, len(x))
		for _, y := range x {
			if n, ok := y.(float64); ok && n >= 0 && n < 256 {
				raw = append(raw, byte(n))
			} else {
				v.decode(y)
			}
		}
		v.keep(raw)
	case string:
		for _, read := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawURLEncoding.DecodeString} {
			if b, err := read(x); err == nil && len(b) >= 8 {
				v.add(b)
			}
		}
	}
}

func (v *view) keep(b []byte) {
	v.raw.Write(append(b[:len(b):len(b)], 0))
	v.lower.Write(append(bytes.ToLower(b), 0))
}

// holds says whether a value stands there, as bytes or as hexadecimal text.
func (v *view) holds(value []byte) bool {
	return bytes.Contains(v.raw.Bytes(), value) || bytes.Contains(v.lower.Bytes(), []byte(hex.EncodeToString(value)))
}

// TestTheSameSeedGivesTheSameBills plays the day twice.
func TestTheSameSeedGivesTheSameBills(t *testing.T) {
	if !*long {
		t.Skip("two days of a small scene: 150 s; run with -long")
	}
	var days [2]*Summary
	for i := range days {
		var err error
		if days[i], err = Once(t.Context(), Options{Homes: 6, Hours: 24, Speed: OnceSpeed, Seed: 5, Dir: filepath.Join(t.TempDir(), "scene")}); err != nil {
			t.Fatal(err)
		}
	}
	a, b := days[0], days[1]
	if !slices.Equal(a.Detail, b.Detail) || len(a.Detail) != 6 {
		t.Errorf("homes: %+v, then %+v", a.Detail, b.Detail)
	}
	if !slices.Equal(a.Drivers, b.Drivers) || len(a.Drivers) == 0 {
		t.Errorf("drivers: %+v, then %+v", a.Drivers, b.Drivers)
	}
	if a.Flexibility != b.Flexibility || a.Sessions != b.Sessions {
		t.Errorf("sessions %+v, flexibility %+v; then %+v, %+v", a.Sessions, a.Flexibility, b.Sessions, b.Flexibility)
	}
}

// each visits all that a stopped node's store holds.
func each(t *testing.T, dir string, fn func(key, value []byte)) {
	t.Helper()
	key, err := store.LoadOrCreateKey(filepath.Join(dir, "store.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(dir, "store"), key, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	n := 0
	for space := range 256 {
		err := st.View(func(tx *store.Tx) error {
			return tx.Each([]byte{byte(space)}, func(k, v []byte) error {
				n++
				fn(k, v)
				return nil
			})
		})
		if err != nil {
			t.Fatalf("%s: %v", fmt.Sprintf("space %q", rune(space)), err)
		}
	}
	if n == 0 {
		t.Fatal("the store is empty")
	}
}
