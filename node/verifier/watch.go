package verifier

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/multiformats/go-multiaddr"
	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/ledger/durable"
	"gridveil/ledger/verifier"
	"gridveil/node/clock"
	"gridveil/node/party"
)

// Files of a watch's directory.
const (
	watchFirst    = "first"        // origin of the ledger's first log, if the policy names a later one
	watchKey      = "cosigner.key" // seed of the copy's own signature, hex
	watchReport   = "report.json"  // what was found last
	watchEvidence = "evidence"     // folder of what convicts the log
)

const (
	defaultLook  = time.Minute      // between two looks
	renewEvery   = 10 * time.Minute // a mirror's cosignature says since when it was seen
	century      = 100 * 365 * 24 * time.Hour
	lookDeadline = 30 * time.Minute // of one look: a new watch replays years
	peerDeadline = time.Minute
)

// WatchConfig says what an outsider watches. Dir, Policy and a log are needed.
type WatchConfig struct {
	Dir    string // made if it is not there
	Policy *ledger.Policy
	// Log is where the log is served: a URL, or a multiaddr such as
	// /dns4/log.example.org/tcp/443/https. Empty takes the policy's.
	Log string
	// Peers are other places where checkpoints of the log are served: mirrors, or
	// verifiers with their /<sha256(origin)>. The policy's witnesses are looked
	// at besides.
	Peers []string
	// After lets the watch begin with a later log of a ledger: it is the folder with
	// the export of the sealed one before. Empty begins with the genesis.
	After string
	// Receipts are promises of the log that it must have kept.
	Receipts  []Receipt
	Every     time.Duration // between two looks; zero means a minute
	Clock     clock.Clock   // nil means the wall clock
	Transport http.RoundTripper
	Logger    *slog.Logger
}

// Receipt is one that the log gave, under the name by which the report speaks of
// it.
type Receipt struct {
	Name string
	ledger.Receipt
}

// Watch follows a log from outside: it needs no membership and opens no door. It
// fetches every entry, replays it, holds the cosignatures against the policy,
// compares what others are shown, and keeps evidence of what is wrong. Once a log
// is sealed, checked and final, it goes on to the next one. What it checked is
// durable; it may be killed at any time.
type Watch struct {
	cfg    WatchConfig
	at     string // URL prefix under which the log's server answers
	key    ed25519.PrivateKey
	shards *party.Shards

	// The log that grows; owned by whoever looks, and read by others under using.
	using  sync.RWMutex
	policy *ledger.Policy // the given one and ourselves, outside of the quorum
	v      *verifier.Verifier

	mu     sync.Mutex
	report Report
}

// OpenWatch opens the directory, recovering what is in it; a copy that is
// damaged is fetched anew from the log.
func OpenWatch(ctx context.Context, cfg WatchConfig) (*Watch, error) {
	if cfg.Log == "" {
		cfg.Log = cfg.Policy.LogURL
	}
	if cfg.Log == "" || party.MeshOnly(cfg.Log) {
		return nil, errors.New("the policy does not say where outsiders can read the log\nnext: name its URL, or that of a mirror, with --log")
	}
	at, err := LogURL(cfg.Log)
	if err != nil {
		return nil, err
	}
	if cfg.Every == 0 {
		cfg.Every = defaultLook
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Wall{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	for i := range cfg.Peers {
		if cfg.Peers[i], err = LogURL(cfg.Peers[i]); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, watchEvidence), 0o700); err != nil {
		return nil, err
	}
	w := &Watch{cfg: cfg, at: at}
	if w.key, err = ownKey(filepath.Join(cfg.Dir, watchKey)); err != nil {
		return nil, err
	}
	if err := w.openShards(); err != nil {
		return nil, err
	}
	if err := w.openLog(ctx); err != nil {
		return nil, err
	}
	if err := w.load(); err != nil {
		return nil, errors.Join(err, w.v.Close())
	}
	return w, nil
}

// join makes the policy of a log in which we are a witness too, and gives our name
// there.
func (w *Watch) join(origin, at string) string {
	p := w.cfg.Policy.As(origin)
	p.LogURL = at
	w.policy = p
	pub := ledger.Hash(w.key.Public().(ed25519.PublicKey))
	for _, x := range p.Witnesses {
		if x.Key.Pub() == pub {
			return x.Name
		}
	}
	name := "verifier-" + hex.EncodeToString(pub[:4])
	p.Witnesses = append(append([]ledger.Witness(nil), p.Witnesses...), ledger.Witness{Name: name, Key: ledger.WitnessKey(name, pub)})
	return name
}

// ownKey reads the seed of our own signature, and draws one at the first start.
func ownKey(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return key, durable.WriteFile(path, []byte(hex.EncodeToString(key.Seed())+"\n"))
	}
	if err != nil {
		return nil, err
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s holds no key: want %d hex digits\nnext: remove it, and another one is drawn", path, 2*ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// LogURL is the URL prefix of where a log is served, from a URL or from a
// multiaddr that ends in http, https or tls/http.
func LogURL(text string) (string, error) {
	bad := fmt.Errorf("%q is no place of a log: want a URL such as http://log.example.org:7081, or a multiaddr such as /dns4/log.example.org/tcp/443/https", text)
	if !strings.HasPrefix(text, "/") {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return "", bad
		}
		return strings.TrimRight(text, "/"), nil
	}
	m, err := multiaddr.NewMultiaddr(text)
	if err != nil {
		return "", bad
	}
	var host, port, scheme string
	multiaddr.ForEach(m, func(c multiaddr.Component) bool {
		switch c.Protocol().Code {
		case multiaddr.P_IP4, multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6:
			host = c.Value()
		case multiaddr.P_IP6:
			host = "[" + c.Value() + "]"
		case multiaddr.P_TCP:
			port = c.Value()
		case multiaddr.P_TLS, multiaddr.P_HTTPS:
			scheme = "https"
		case multiaddr.P_HTTP:
			if scheme == "" {
				scheme = "http"
			}
		default:
			scheme, host = "", ""
			return false
		}
		return true
	})
	if host == "" || port == "" || scheme == "" {
		return "", bad
	}
	return scheme + "://" + host + ":" + port, nil
}

// load reads what the last run found: when it failed and what the log showed.
func (w *Watch) load() error {
	w.report = Report{Origin: w.policy.Log.Name(), Log: w.policy.LogURL, Key: w.ownKey().String(), Verdict: Unlooked, Text: "Not looked yet."}
	b, err := os.ReadFile(filepath.Join(w.cfg.Dir, watchReport))
	if errors.Is(err, fs.ErrNotExist) {
		return w.sealedBefore(Report{})
	}
	var old Report
	if err == nil {
		err = json.Unmarshal(b, &old)
	}
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w\nnext: remove it; only the time of the last failure is lost", watchReport, err)
	}
	if old.Origin == w.report.Origin {
		w.report.Failed, w.report.Served, w.report.Checked = old.Failed, old.Served, old.Checked
	}
	return w.sealedBefore(old)
}

// ownKey is our own verifier key, as a line "witness" of a policy names it.
func (w *Watch) ownKey() ledger.VerifierKey {
	for _, x := range w.policy.Witnesses {
		if x.Name == w.v.Status().Name {
			return x.Key
		}
	}
	return ledger.VerifierKey{} // join put us there
}

// Report is what was found last.
func (w *Watch) Report() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.report
}

// Close closes the copy. Serve, Look and the handlers must have returned.
func (w *Watch) Close() error { return w.v.Close() }

// Serve looks again and again until ctx ends, and calls told after each look.
// Sealed logs become flat files meanwhile. It returns an error only when the copy
// on disk can no longer be written.
func (w *Watch) Serve(ctx context.Context, told func(Report)) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	g.Go(func() error { return w.shards.Keep(ctx) })
	g.Go(func() error {
		defer stop()
		return w.follow(ctx, told)
	})
	return g.Wait()
}

func (w *Watch) follow(ctx context.Context, told func(Report)) error {
	for {
		r, err := w.Look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		told(r)
		if err != nil {
			return err
		}
		if !clock.Sleep(ctx, w.cfg.Clock, w.cfg.Every) {
			return nil
		}
	}
}

// Look looks at the log once, then at everybody else who serves checkpoints of
// it, and keeps what it found; at the next log too once this one has gone on. Its
// error means that the copy on disk can no longer be written; what is wrong with
// the log stands in the report.
func (w *Watch) Look(ctx context.Context) (Report, error) {
	for {
		r, note, err := w.look(ctx)
		if err != nil || ctx.Err() != nil || r.Verdict != Sound || r.Sealed == "" {
			return r, err
		}
		if crossed, err := w.cross(ctx, r, note); err != nil || !crossed {
			return r, err
		}
	}
}

// look looks at the log that grows; it gives the checkpoint that the log showed.
func (w *Watch) look(ctx context.Context) (Report, []byte, error) {
	r := w.Report()
	old := r
	r.Looked = w.cfg.Clock.Now().UTC()
	r.Peers, r.Receipts, r.Entry = nil, nil, nil
	long, cancel := context.WithTimeout(ctx, lookDeadline)
	defer cancel()
	var note []byte
	err := w.begin(ctx)
	if r.Origin, r.Log = w.policy.Log.Name(), w.policy.LogURL; err == nil {
		note, err = w.v.Look(long, "", true)
	}
	away := note == nil
	w.lookAround(ctx, &r, away)
	w.receipts(ctx, &r)
	if ctx.Err() != nil {
		return old, nil, nil
	}
	w.judge(&r, note, err)
	if err := w.fill(&r); err != nil {
		return r, note, err
	}
	if r.Verdict == Sound {
		r.Checked = r.Looked
	} else if r.Verdict.Convicts() || r.Failed == nil || r.Failed.Verdict != r.Verdict || old.Verdict == Sound {
		r.Failed = &Failure{At: r.Looked, Verdict: r.Verdict, Text: r.Text}
	}
	w.mu.Lock()
	w.report = r
	w.mu.Unlock()
	if fatal := w.v.Status().Err; errors.Is(fatal, ledger.ErrHalted) {
		return r, note, fmt.Errorf("copy of the log: %w", fatal)
	}
	return r, note, w.save(r)
}

func (w *Watch) save(r Report) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(w.cfg.Dir, watchReport), append(b, '\n'))
}

// lookAround looks at the policy's witnesses and the given peers.
func (w *Watch) lookAround(ctx context.Context, r *Report, away bool) {
	hash := ledger.OriginHash(r.Origin)
	for _, x := range w.policy.Witnesses {
		if x.URL == "" || party.MeshOnly(x.URL) {
			continue
		}
		r.Peers = append(r.Peers, w.lookAt(ctx, x.Name, x.URL+"/"+hex.EncodeToString(hash[:]), away))
	}
	for _, at := range w.cfg.Peers {
		r.Peers = append(r.Peers, w.lookAt(ctx, "", w.place(ctx, at), away))
	}
}

// lookAt compares what one other place shows with our copy. With the log away
// the copy grows from there.
func (w *Watch) lookAt(ctx context.Context, name, at string, away bool) Peer {
	ctx, cancel := context.WithTimeout(ctx, peerDeadline)
	defer cancel()
	p := Peer{Name: name, URL: at}
	note, err := w.v.Look(ctx, at, away)
	if note == nil {
		p.Text = "cannot be read: " + plain(err)
		return p
	}
	c, cosigners, opened := w.policy.Open(note)
	p.Size = c.Size
	for _, x := range w.policy.Witnesses {
		if x.Name == name && opened == nil {
			p.Signed = signedAt(note, x.Key)
		}
	}
	size := w.v.Status().Size
	switch {
	case errors.Is(err, ledger.ErrFork):
		p.Text = "shows another history"
	case err != nil:
		p.Text = "could not be compared: " + plain(err)
	case opened != nil:
		p.Text = "signatures do not hold: " + plain(opened)
	case c.Size > size:
		p.OK, p.Text = true, fmt.Sprintf("has %d entries more, grown out of ours", c.Size-size)
	default:
		p.OK, p.Text = true, "shows the same history"
	}
	if p.OK {
		p.Final = w.policy.Final(cosigners)
	}
	if e, err := w.v.Accusation(ctx, at); err == nil && e != nil && w.v.Convict(ctx, e, w.receiptKeys()...) == nil {
		p.Text += "; it convicts the log"
	}
	return p
}

func (w *Watch) receiptKeys() (keys []ledger.Hash) {
	w.v.Read(func(m ledger.Machine) {
		if s := m.(*ledger.Money).State; s.Size() > 0 {
			keys = s.ActiveKeys(1, ledger.UseReceipt)
		}
	})
	return keys
}

// receipts holds the log to what it promised.
func (w *Watch) receipts(ctx context.Context, r *Report) {
	for _, x := range w.cfg.Receipts {
		p := Pledge{Name: x.Name, Index: x.Index}
		if w.sealedReceipt(x.Receipt, &p) {
			r.Receipts = append(r.Receipts, p)
			continue
		}
		e, err := w.v.CheckReceipt(ctx, x.Receipt)
		switch {
		case e != nil:
			p.Text = "broken: the log holds another entry there"
		case errors.Is(err, ledger.ErrBusy):
			p.Text = "not covered by a checkpoint yet"
		case err != nil:
			p.Text = plain(err)
		default:
			p.OK, p.Text = true, "kept"
		}
		r.Receipts = append(r.Receipts, p)
	}
}
