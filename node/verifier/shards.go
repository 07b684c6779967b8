package verifier

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/ledger/export"
	"gridveil/ledger/store"
	"gridveil/ledger/verifier"
	"gridveil/node/config"
	"gridveil/node/party"
	"gridveil/node/role"
)

// maxLogs bounds how far back the ledger's first log may be: a century of years.
const maxLogs = 100

// watchOptions are those of each log's copy: nothing in it is secret.
var watchOptions = store.Options{MemTableBytes: 4 << 20, SegmentBytes: 16 << 20}

// openShards finds the logs of the ledger that were followed before.
func (w *Watch) openShards() (err error) {
	var prev string
	var carried []byte
	if w.cfg.After != "" {
		if prev, carried, err = export.Carry(w.cfg.After, w.cfg.Policy); err != nil {
			return fmt.Errorf("sealed log in %s: %w", w.cfg.After, err)
		}
	}
	home := w.cfg.Policy.Log.Name()
	if b, err := os.ReadFile(filepath.Join(w.cfg.Dir, watchFirst)); err == nil && w.cfg.After == "" {
		home = string(b)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	env := &role.Env{Config: &config.Config{Dir: w.cfg.Dir}, Clock: w.cfg.Clock, Log: w.cfg.Logger, Warn: role.NewBoard()}
	if w.shards, err = party.ShardsOf(env, watchOptions, home, prev, carried); err != nil {
		return err
	}
	if _, err := w.shards.Machine(1); err != nil && w.cfg.After != "" {
		return fmt.Errorf("sealed log in %s: %w", w.cfg.After, err)
	}
	return nil
}

// errNoFirst says that a ledger cannot be followed from its beginning.
var errNoFirst = errors.New("the log of the policy goes on from an earlier one that is not served there; name a mirror that has it with --log, or the folder with its export with --after")

// begin finds the ledger's first log, while nothing was fetched yet: the one of
// the policy may be a later one. What is followed from there is checked as a whole.
func (w *Watch) begin(ctx context.Context) error {
	if size := w.v.Status().Size; size > 0 || w.cfg.After != "" || len(w.shards.List()) > 1 {
		return nil
	}
	base, at, home := w.server(w.at), w.policy.LogURL, w.policy.Log.Name()
	for n := 0; ; n++ {
		raw, err := verifier.First(ctx, at, w.cfg.Transport)
		if err != nil && n == 0 {
			return nil // looking at the log says why
		}
		if err != nil || n > maxLogs {
			return errNoFirst
		}
		e, err := ledger.Parse(raw)
		if err != nil {
			break // it is refused when it is replayed
		}
		b, later := e.Body().(*ledger.Shard)
		if !later {
			break
		}
		sealed, err := b.SealedBy()
		if err != nil {
			break
		}
		home = sealed.Origin
		at = party.CopyURL(base, home)
	}
	if home == w.policy.Log.Name() {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(w.cfg.Dir, watchFirst), []byte(home)); err != nil {
		return err
	}
	w.using.Lock()
	defer w.using.Unlock()
	dir := w.shards.Dir(1)
	if err := errors.Join(w.v.Close(), os.RemoveAll(dir), w.openShards()); err != nil {
		return err
	}
	if err := w.openLog(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	w.report.Origin, w.report.Log = home, w.policy.LogURL
	w.mu.Unlock()
	return nil
}

// arrived reports whether the logs that were followed lead to the policy's.
func (w *Watch) arrived() bool {
	return slices.ContainsFunc(w.shards.List(), func(x party.Shard) bool { return x.Origin == w.cfg.Policy.Log.Name() })
}

// openLog opens the copy of the log that grows. One that is damaged is fetched
// anew.
func (w *Watch) openLog(ctx context.Context) error {
	x := w.shards.Open()
	at := w.place(ctx, w.at)
	name := w.join(x.Origin, at)
	cfg := verifier.Config{Dir: w.shards.Dir(x.No), Store: watchOptions, Policy: w.policy, Name: name, Key: w.key, Transport: w.cfg.Transport,
		MaxBehind: century, MaxAhead: century, RenewEvery: renewEvery, Clock: w.cfg.Clock, Log: w.cfg.Logger}
	open := func() (err error) {
		m, err := w.shards.Machine(x.No)
		if err != nil {
			return err
		}
		cfg.Machine = m
		w.v, err = verifier.Open(cfg)
		return err
	}
	err := open()
	if errors.Is(err, ledger.ErrDamaged) {
		w.cfg.Logger.Warn("copy of the log is damaged and fetched anew", "err", err)
		m, bad := w.shards.Machine(x.No)
		if bad != nil {
			return fmt.Errorf("copy of the log: %w", bad)
		}
		cfg.Machine = m
		if failed := verifier.Repair(ctx, cfg, at); failed != nil {
			return fmt.Errorf("%w\nnext: start again when the log can be reached, or name a mirror with --log: the copy is fetched anew then", failed)
		}
		err = open()
	}
	if err != nil {
		return fmt.Errorf("copy of the log: %w", err)
	}
	return nil
}

// place is where the log that grows here is served by a server of logs: each under
// the hash of its origin, and the one that grows there at the root too. A place
// that was named by the hash of an earlier log means its server.
func (w *Watch) place(ctx context.Context, at string) string {
	origin := w.shards.Open().Origin
	at = w.server(at)
	if own := party.CopyURL(at, origin); w.serves(ctx, own, origin) {
		return own
	}
	return at
}

// server is a place without the hash of a log of this ledger.
func (w *Watch) server(at string) string {
	for _, x := range w.shards.List() {
		at = strings.TrimSuffix(at, party.CopyURL("", x.Origin))
	}
	return strings.TrimSuffix(at, party.CopyURL("", w.cfg.Policy.Log.Name()))
}

// serves reports whether a checkpoint of a log is served under a URL prefix.
func (w *Watch) serves(ctx context.Context, prefix, origin string) bool {
	ctx, cancel := context.WithTimeout(ctx, peerDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, prefix+"/checkpoint", nil)
	if err != nil {
		return false
	}
	resp, err := (&http.Client{Transport: w.cfg.Transport}).Do(req)
	if err != nil {
		return false
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, ledger.MaxCheckpoint))
	return errors.Join(err, resp.Body.Close()) == nil && resp.StatusCode == http.StatusOK && strings.HasPrefix(string(b), origin+"\n")
}

// cross goes on to the next log, if it is served already: r is of this one, which
// is sealed, sound and final by the checkpoint note. The next one must begin with
// that end and with what we carried over; else its first entry is refused. It
// reports whether there was something to go on to.
func (w *Watch) cross(ctx context.Context, r Report, note []byte) (bool, error) {
	policy := w.cfg.Policy.As(r.Origin)
	c, err := policy.OpenFinal(note)
	if err != nil || c.Size != r.Entries {
		return false, nil // what the log shows is not the end yet
	}
	base := w.server(w.at)
	if !w.serves(ctx, party.CopyURL(base, r.Sealed), r.Sealed) && !w.serves(ctx, base, r.Sealed) {
		return false, nil
	}
	var state *ledger.State
	w.v.Read(func(m ledger.Machine) { state = m.(*ledger.Money).State })
	if err := w.shards.Cross(state, note, policy); err != nil { // nothing changes a sealed state any more
		return false, fmt.Errorf("go on to the next log: %w", err)
	}
	w.using.Lock()
	defer w.using.Unlock()
	if err := w.v.Close(); err != nil {
		return false, err
	}
	w.shards.Settle()
	if err := w.openLog(ctx); err != nil {
		return false, err
	}
	next := Report{Origin: r.Sealed, Log: w.policy.LogURL, Key: r.Key, Verdict: Unlooked, Text: "Not looked yet.", Failed: r.Failed,
		Shards: append(r.Shards, Shard{Origin: r.Origin, Entries: r.Entries, Root: r.Root, Checked: r.Looked})}
	w.mu.Lock()
	w.report = next
	w.mu.Unlock()
	return true, w.save(next)
}

// sealedBefore describes the sealed logs from the disk; old knows when they were
// checked.
func (w *Watch) sealedBefore(old Report) error {
	w.report.Shards = nil
	for _, x := range w.shards.List() {
		if !x.Sealed() {
			continue
		}
		c, err := w.cfg.Policy.As(x.Origin).OpenFinal(x.Note)
		if err != nil {
			return fmt.Errorf("end of the sealed log %s: %w\nnext: was the copy made under another policy? Name that one, or another folder with --data", x.Origin, err)
		}
		s := Shard{Origin: x.Origin, Entries: x.Size, Root: hex.EncodeToString(c.Root[:])}
		for _, was := range old.Shards {
			if was.Origin == s.Origin {
				s.Checked = was.Checked
			}
		}
		w.report.Shards = append(w.report.Shards, s)
	}
	return nil
}

// sealedReceipt holds a sealed log to what it promised; it reports whether the
// receipt is of one.
func (w *Watch) sealedReceipt(r ledger.Receipt, p *Pledge) bool {
	for _, x := range w.shards.List() {
		if !x.Sealed() || ledger.OriginHash(x.Origin) != r.Origin {
			continue
		}
		raw, err := w.shards.Entry(x.Base + r.Index)
		signed := slices.ContainsFunc(w.receiptKeys(), func(k ledger.Hash) bool { return r.Verify(x.Origin, k) == nil })
		switch {
		case !signed:
			p.Text = "no receipt key on the log has signed this receipt"
		case r.Index >= x.Size:
			p.Text = fmt.Sprintf("broken: %s was sealed with %d entries", x.Origin, x.Size)
		case err != nil:
			p.Text = plain(err)
		case ledger.LeafHash(raw) != r.Leaf:
			p.Text = "broken: the sealed log holds another entry there"
		default:
			p.OK, p.Text = true, "kept, in the sealed "+x.Origin
		}
		return true
	}
	return false
}

// SettleAll writes what is sealed to flat files now, for a watch that is not
// served.
func (w *Watch) SettleAll(ctx context.Context) error { return w.shards.SettleAll(ctx) }

// Mirror serves our copies in the log's place: the one that grows at the root and
// under /<sha256(origin)>, see verifier.Verifier.Mirror, and each sealed one under
// its own.
func (w *Watch) Mirror() http.Handler {
	return w.shards.Handler("", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.using.RLock()
		defer w.using.RUnlock()
		w.v.Mirror().ServeHTTP(rw, r)
	}))
}
