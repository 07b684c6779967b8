package writer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"gridveil/ledger"
)

// Network limits, on the wall clock.
const (
	askTimeout    = 20 * time.Second // a verifier may have to replay before it answers
	surveyTimeout = 5 * time.Second  // of a new leader: a witness that is away must not delay it
	stragglers    = time.Second      // how long a final checkpoint waits for the rest
	maxAnswer     = ledger.MaxCheckpoint
	maxAsks       = 3 // one to learn the size, one to use it, one if it moved meanwhile
)

// witness is one cosigner.
type witness struct {
	ledger.Witness
	size uint64 // that it cosigned last, as far as known; owned by the one who asks it

	status WitnessStatus // under Writer.mu
}

// WitnessStatus is what a page shows of a cosigner.
type WitnessStatus struct {
	Name string
	Size uint64 // cosigned
	Err  error  // why it did not cosign the newest checkpoint
}

// answer is what a witness said to a checkpoint.
type answer struct {
	*witness
	lines []byte
	err   error
}

// askAll asks every witness that is missing, all at once. The channel is closed
// after the last answer; stop abandons the open requests and waits for them.
func (w *Writer) askAll(ctx context.Context, r *round) (answers <-chan answer, stop func()) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	out := make(chan answer, len(w.witnesses))
	has := map[string]bool{}
	for _, name := range r.cosigners {
		has[name] = true
	}
	c, msg := r.checkpoint, r.note
	var wg sync.WaitGroup // stop waits for it
	for _, x := range w.witnesses {
		if has[x.Name] || x.URL == "" {
			continue
		}
		wg.Go(func() {
			lines, err := w.ask(ctx, x, c, msg)
			w.note(x, c.Size, err)
			out <- answer{x, lines, err}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(out); close(done) }() // ended by stop
	return out, func() { cancel(); <-done }
}

// note records how a witness did.
func (w *Writer) note(x *witness, size uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		if x.status.Err == nil {
			w.cfg.Log.Warn("witness did not cosign", "witness", x.Name, "err", err)
		}
		x.status = WitnessStatus{x.Name, x.status.Size, err}
		return
	}
	x.status = WitnessStatus{x.Name, size, nil}
}

// ask obtains the cosignature lines of one witness. Source: C2SP tlog-witness.
func (w *Writer) ask(ctx context.Context, x *witness, c ledger.Checkpoint, msg []byte) ([]byte, error) {
	for range maxAsks {
		proof, err := w.store.ProveConsistency(x.size, c)
		if err != nil {
			return nil, err
		}
		req := ledger.AddCheckpoint{Old: x.size, Proof: proof, Checkpoint: msg}
		status, body, err := w.post(ctx, x.URL+"/add-checkpoint", req.Encode())
		switch {
		case err != nil:
			return nil, err
		case status == http.StatusOK:
			x.size = c.Size
			return body, nil
		case status != http.StatusConflict:
			return nil, fmt.Errorf("witness answers %d: %s", status, firstLine(body))
		}
		size, err := strconv.ParseUint(strings.TrimSuffix(string(body), "\n"), 10, 63)
		if err != nil || size == x.size {
			return nil, fmt.Errorf("witness answers 409 with %q", firstLine(body))
		}
		if size > c.Size {
			return nil, w.ahead(ctx, x, c, size)
		}
		x.size = size
	}
	return nil, errors.New("witness changes its size with every request")
}

// survey asks every witness for the newest checkpoint of this log that it
// cosigned, before a new leader signs: what it shows under our own signature must
// be in this store, or the store must not sign. Who does not answer is asked
// again by add-checkpoint, which is the outer fence.
func (w *Writer) survey(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	hash := ledger.OriginHash(w.origin)
	errs := make([]error, len(w.witnesses))
	var wg sync.WaitGroup // waited for below
	for i, x := range w.witnesses {
		if x.URL == "" {
			continue
		}
		wg.Go(func() {
			msg, err := w.fetch(asking, x.URL+"/"+hex.EncodeToString(hash[:])+"/checkpoint")
			if err != nil {
				w.cfg.Log.Debug("witness does not show its checkpoint", "witness", x.Name, "err", err)
				return
			}
			if seen, _, err := ledger.OpenCheckpoint(msg, w.cfg.Policy.Log); err == nil && seen.Origin == w.origin {
				errs[i] = w.holds(seen)
				x.size = seen.Size
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// holds halts the store of a leader unless it has what a checkpoint of our own
// says. Who leads no more is only behind.
func (w *Writer) holds(seen ledger.Checkpoint) error {
	size := w.Size()
	if seen.Size > size {
		if err := w.cluster.Leads(); err != nil {
			return err
		}
		return w.store.Halt(fmt.Errorf("%w: a witness holds our checkpoint of size %d, this store has %d entries; repair it from that witness",
			ledger.ErrDamaged, seen.Size, size))
	}
	root, err := w.store.RootAt(seen.Size)
	if err == nil && root != seen.Root {
		err = w.store.Halt(fmt.Errorf("%w: a witness holds our checkpoint of size %d with another root", ledger.ErrFork, seen.Size))
	}
	return err
}

// ahead is called when a witness claims a larger log than ours. If it can show
// our own signature on it, this store has lost entries and must not sign any
// more; else the witness is wrong.
func (w *Writer) ahead(ctx context.Context, x *witness, c ledger.Checkpoint, size uint64) error {
	hash := ledger.OriginHash(w.origin)
	msg, err := w.fetch(ctx, x.URL+"/"+hex.EncodeToString(hash[:])+"/checkpoint")
	if err == nil {
		var seen ledger.Checkpoint
		seen, _, err = ledger.OpenCheckpoint(msg, w.cfg.Policy.Log)
		if ours := err == nil && seen.Origin == w.origin && seen.Size > c.Size; ours && w.cluster != nil {
			return errors.Join(w.holds(seen), fmt.Errorf("witness holds our checkpoint of size %d, above %d", seen.Size, c.Size))
		} else if ours {
			return w.store.Halt(fmt.Errorf("%w: a witness holds our checkpoint of size %d, this store has %d entries; repair it from that witness",
				ledger.ErrDamaged, seen.Size, c.Size))
		}
	}
	return fmt.Errorf("witness claims size %d without our signature: %w", size, errors.Join(err, ledger.ErrFork))
}

func (w *Writer) post(ctx context.Context, url string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("ask witness: %w", err)
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	return w.do(req)
}

func (w *Writer) fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask witness: %w", err)
	}
	status, body, err := w.do(req)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("witness answers %d: %s", status, firstLine(body))
	}
	return body, err
}

func (w *Writer) do(req *http.Request) (status int, body []byte, err error) {
	client := http.Client{Transport: w.cfg.Transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a witness is where the policy says
	}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask witness: %w", err)
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, nil, fmt.Errorf("ask witness: %w", err)
	}
	if len(body) > maxAnswer {
		return 0, nil, fmt.Errorf("%w: answer of a witness is above %d bytes", ledger.ErrMalformed, maxAnswer)
	}
	return resp.StatusCode, body, nil
}

// firstLine quotes a peer's answer briefly.
func firstLine(b []byte) string {
	const most = 120
	line, _, _ := bytes.Cut(b[:min(len(b), most)], []byte("\n"))
	return strings.ToValidUTF8(string(line), "?")
}
