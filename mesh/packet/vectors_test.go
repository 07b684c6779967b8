package packet

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata/vectors; say in the commit why bytes changed")

// vector is a text file of "name: hex" lines, in order.
type vector struct{ lines []string }

func (v *vector) add(name string, value []byte) {
	v.lines = append(v.lines, name+": "+hex.EncodeToString(value))
}

// compare checks v against testdata/vectors/file.
func (v *vector) compare(t *testing.T, file string) {
	t.Helper()
	path := filepath.Join("testdata", "vectors", file)
	got := strings.Join(v.lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(want), "\n"), "\n") {
		if i >= len(v.lines) || v.lines[i] != line {
			t.Fatalf("%s:%d differs; a changed format is a new version, never an edit", path, i+1)
		}
	}
	t.Fatalf("%s has fewer lines than the format now gives", path)
}

// recorder notes the randomness that was used, so that the vector holds it.
type recorder struct {
	from io.Reader
	used bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.used.Write(b[:n])
	return n, err
}

// countingUser is 00 01 02 ... as user bytes.
func countingUser() []byte {
	user := make([]byte, UserSize)
	for i := range user {
		user[i] = byte(i)
	}
	return user
}

func (v *vector) addRoute(c chain) {
	for i, h := range c.route {
		v.add(fmt.Sprintf("hop %d private", i+1), c.keys[i].private[:])
		v.add(fmt.Sprintf("hop %d node", i+1), h.Node[:])
		v.add(fmt.Sprintf("hop %d key id", i+1), []byte{byte(h.KeyID >> 8), byte(h.KeyID)})
		ms := h.Delay / time.Millisecond
		v.add(fmt.Sprintf("hop %d delay ms", i+1), []byte{byte(ms >> 16), byte(ms >> 8), byte(ms)})
	}
}

func (v *vector) addTravel(t *testing.T, c chain, p *Packet) {
	t.Helper()
	for i, k := range c.keys {
		v.add(fmt.Sprintf("before hop %d", i+1), p[:])
		seen := memory{}
		if _, err := Unwrap(p, k, seen); err != nil {
			t.Fatal(err)
		}
		for tag := range seen {
			v.add(fmt.Sprintf("replay tag %d", i+1), tag[:])
		}
	}
}

func TestPacketVectors(t *testing.T) {
	for n := 1; n <= MaxLayers; n++ {
		rnd := seeded(byte(80 + n))
		c, p, rec := newChain(t, n, rnd), new(Packet), &recorder{from: rnd}
		if err := Build(p, c.route, FlagDeliver, countingUser(), rec); err != nil {
			t.Fatal(err)
		}
		v := &vector{}
		v.addRoute(c)
		v.add("random", rec.used.Bytes())
		v.addTravel(t, c, p)
		user, err := p.User()
		if err != nil {
			t.Fatal(err)
		}
		v.add("user", user)
		v.compare(t, fmt.Sprintf("packet-%d.txt", n))
	}
}

func TestReplyBlockVector(t *testing.T) {
	rnd := seeded(90)
	c, p, rec := newChain(t, 4, rnd), new(Packet), &recorder{from: rnd}
	block, keys, err := NewReplyBlock(c.route, ReplyID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, rec)
	if err != nil {
		t.Fatal(err)
	}
	v := &vector{}
	v.addRoute(c)
	v.add("random", rec.used.Bytes())
	v.add("reply block", block[:])
	if err := block.Use(p, countingUser()); err != nil {
		t.Fatal(err)
	}
	v.addTravel(t, c, p)
	user, err := keys.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	v.add("user", user)
	v.compare(t, "reply.txt")
}

func TestMessageVector(t *testing.T) {
	rnd := seeded(91)
	key, rec := mustSealKey(t, rnd), &recorder{from: rnd}
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	r := sampleRequest(rnd, 1, 700)
	plain, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	sealed, answerKey, err := SealRequest(key.Public(), r, rec)
	if err != nil {
		t.Fatal(err)
	}
	v := &vector{}
	v.add("seal seed", seed)
	v.add("plain", plain)
	v.add("random", rec.used.Bytes())
	v.add("sealed", sealed)
	v.add("answer key", answerKey[:])
	pieces, err := Split(MessageID{1, 2, 3, 4, 5, 6, 7, 8}, MessageRequest, sealed)
	if err != nil {
		t.Fatal(err)
	}
	for i, piece := range pieces {
		v.add(fmt.Sprintf("fragment %d", i), piece)
	}
	rec.used.Reset()
	answer, err := answerKey.SealAnswer(r.ID, []byte("the answer"), rec)
	if err != nil {
		t.Fatal(err)
	}
	v.add("answer random", rec.used.Bytes())
	v.add("answer", answer)
	v.compare(t, "message.txt")
}
