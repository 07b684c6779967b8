package writer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"testing"

	"gridveil/ledger"
	"gridveil/ledger/internal/scene"
	"gridveil/ledger/internal/tile"
	"gridveil/ledger/internal/town"
	"gridveil/ledger/writer"
)

// liar is a witness that claims to know more than there is.
type liar struct{}

func (liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/x.tlog.size")
	w.WriteHeader(http.StatusConflict)
	io.WriteString(w, "999999\n")
}

func fetch(t *testing.T, tw *town.Town, method, url string, body []byte) (int, []byte, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tw.Net.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b, resp.Header
}

// TestTheLogIsServedAsTiles reads the whole log as a stranger would, with the
// policy and nothing else.
func TestTheLogIsServedAsTiles(t *testing.T) {
	s := transfers(t, 700)
	tw := town.New(t, s)
	tw.Verifiers()
	w, _ := tw.Writer(tw.WriterConfig())
	if status, _, _ := fetch(t, tw, http.MethodGet, "http://log/checkpoint", nil); status != http.StatusNotFound {
		t.Errorf("before the first checkpoint: status %d", status)
	}
	tw.Submit(w, s.Log)
	tw.Final(w, uint64(len(s.Log)))
	eventually(t, func() bool { return len(w.Status().Cosigners) == 3 }) // the note changes no more
	status, msg, h := fetch(t, tw, http.MethodGet, "http://log/checkpoint", nil)
	if status != 200 || h.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Fatalf("checkpoint: %d %v", status, h)
	}
	c, err := tw.Policy.OpenFinal(msg)
	if err != nil || c.Size != uint64(len(s.Log)) {
		t.Fatalf("checkpoint of size %d: %v", c.Size, err)
	}
	var e tile.Edge
	for _, x := range tile.Of(c.Size) {
		status, b, h := fetch(t, tw, http.MethodGet, "http://log/"+x.Path(), nil)
		if status != 200 || h.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("%s: %d %v", x.Path(), status, h)
		}
		if x.L != tile.Entries {
			continue
		}
		list, err := ledger.ParseBundle(b, tile.Width)
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range list {
			e.Append(ledger.LeafHash(raw), func(full tile.Tile, data []byte) {
				if _, b, _ := fetch(t, tw, http.MethodGet, "http://log/"+full.Path(), nil); !bytes.Equal(b, data) {
					t.Errorf("%s is another", full.Path())
				}
			})
		}
	}
	if e.Root() != c.Root {
		t.Error("the entries do not give the root")
	}
	for _, path := range []string{"tile/0/003", "tile/0/002.p/200", "tile/entries/9", "tile/entries/x999/x999/x999/x999/x999/x999/999", "tile/", "tile/8/000", "tile/63/000"} {
		if status, _, _ := fetch(t, tw, http.MethodGet, "http://log/"+path, nil); status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, status)
		}
	}
	client := writer.Client{URL: "http://log", HTTP: &http.Client{Transport: tw.Net}}
	p, err := client.Proof(context.Background(), 500)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Verify(tw.Policy, ledger.LeafHash(s.Log[500])); err != nil {
		t.Error(err)
	}
	if got, err := client.Checkpoint(context.Background()); err != nil || !bytes.Equal(got, msg) {
		t.Errorf("client: %v", err)
	}
	for path, want := range map[string]int{"proof/999999": 404, "proof/x": 400, "proof/-1": 400, "proof/18446744073709551615": 400} {
		if status, _, _ := fetch(t, tw, http.MethodGet, "http://log/"+path, nil); status != want {
			t.Errorf("%s: status %d, want %d", path, status, want)
		}
	}
}

func TestEntriesAreSubmittedOverHTTP(t *testing.T) {
	s := transfers(t, 30)
	tw := town.New(t, s)
	w, stop := tw.Writer(tw.WriterConfig())
	client := writer.Client{URL: "http://log", HTTP: &http.Client{Transport: tw.Net}}
	results, err := client.Submit(context.Background(), s.Log[:20])
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Err != nil || r.Exists || r.Receipt.Index != uint64(i) {
			t.Fatalf("entry %d: %+v", i, r)
		}
		if err := r.Receipt.Verify(scene.Origin, scene.Pub(s.Receipt)); err != nil {
			t.Fatal(err)
		}
	}
	forged := bytes.Clone(s.Log[21])
	forged[len(forged)-1] ^= 1
	ahead := s.Log[len(s.Log)-1]
	results, err = client.Submit(context.Background(), [][]byte{s.Log[5], []byte("no entry"), ahead, forged, s.Log[20]})
	if err != nil {
		t.Fatal(err)
	}
	if r := results[0]; r.Err != nil || !r.Exists || r.Receipt.Index != 5 {
		t.Errorf("sent again: %+v", r)
	}
	if !errors.Is(results[1].Err, ledger.ErrMalformed) {
		t.Errorf("no entry: %v", results[1].Err)
	}
	var gap *ledger.SeqGapError
	if !errors.As(results[2].Err, &gap) || gap.Want == 0 {
		t.Errorf("a gap: %v", results[2].Err)
	}
	if !errors.Is(results[3].Err, ledger.ErrSignature) {
		t.Errorf("forged: %v", results[3].Err)
	}
	if results[4].Err != nil {
		t.Errorf("an entry beside bad ones: %v", results[4].Err)
	}
	big := bytes.Repeat([]byte{0, 1, 7}, 1025)
	for name, c := range map[string]struct {
		body []byte
		want int
	}{
		"nothing": {nil, 400}, "half a frame": {[]byte{0}, 400}, "an empty frame": {[]byte{0, 0}, 400},
		"1025 entries": {big, 400}, "1024 entries": {big[:3*1024], 200}, "too long": {make([]byte, 5<<20), 413},
	} {
		if status, answer, _ := fetch(t, tw, http.MethodPost, "http://log/entries", c.body); status != c.want {
			t.Errorf("%s: status %d, want %d: %.80s", name, status, c.want, answer)
		}
	}
	stop()
	tw.Net.Put("log", w.Handler())
	if _, err := client.Submit(context.Background(), s.Log[21:22]); !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("a stopped writer: %v", err)
	}
	if _, err := client.Checkpoint(context.Background()); err == nil {
		t.Error("a checkpoint that there is not")
	}
}

func TestResultsSurviveTheWire(t *testing.T) {
	s := transfers(t, 1)
	both := ledger.SignReceipts(s.Receipt, ledger.Receipt{Index: 4, Party: 2, Seq: 9}, ledger.Receipt{Index: 3})
	in := []writer.Result{{Receipt: both[0]}, {Receipt: both[1], Exists: true}, {Err: &ledger.SeqGapError{Want: 7}},
		{Err: &ledger.SeqConflictError{Index: 8}}, {Err: &ledger.DuplicateError{What: "ref", Index: 9}}, {Err: errors.New("unknown")}}
	out, err := writer.ParseResults(writer.EncodeResults(in), len(in))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(out[0].Receipt, both[0]) || !reflect.DeepEqual(out[1].Receipt, both[1]) || out[0].Exists || !out[1].Exists {
		t.Errorf("receipts: %+v", out[:2])
	}
	var gap *ledger.SeqGapError
	var conflict *ledger.SeqConflictError
	var double *ledger.DuplicateError
	if !errors.As(out[2].Err, &gap) || gap.Want != 7 || !errors.As(out[3].Err, &conflict) || conflict.Index != 8 ||
		!errors.As(out[4].Err, &double) || double.Index != 9 || !errors.Is(out[5].Err, ledger.ErrHalted) {
		t.Errorf("errors: %v", out[2:])
	}
	for _, n := range []int{len(in) - 1, len(in) + 1} {
		if _, err := writer.ParseResults(writer.EncodeResults(in), n); !errors.Is(err, ledger.ErrMalformed) {
			t.Errorf("%d results as %d: %v", len(in), n, err)
		}
	}
}

func FuzzParseResults(f *testing.F) {
	r := ledger.SignReceipts(transfers(f, 1).Receipt, make([]ledger.Receipt, 3)...)[2]
	f.Add(writer.EncodeResults([]writer.Result{{Receipt: r}, {Err: &ledger.SeqGapError{Want: 7}}}), 2)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		list, err := writer.ParseResults(b, n)
		if err == nil && len(list) != n {
			t.Errorf("%d results, want %d", len(list), n)
		}
	})
}
