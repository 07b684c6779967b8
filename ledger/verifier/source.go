package verifier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Network limits, on the wall clock.
const (
	fetchTimeout = 15 * time.Second // of one request
	maxBundle    = tile.Width * (2 + ledger.MaxEntry)
)

// ErrAbsent means that the other side has no such thing (404): a log without a
// final checkpoint, a tile beyond it.
var ErrAbsent = errors.New("not found")

// source is a place that serves a log as tiles: its writer or a verifier.
type source struct {
	url  string // prefix without a slash at the end
	http *http.Client
}

func newSource(url string, rt http.RoundTripper) source {
	return source{url, &http.Client{Transport: rt, Timeout: fetchTimeout}}
}

func (s source) checkpoint(ctx context.Context) ([]byte, error) {
	return s.get(ctx, "checkpoint", ledger.MaxCheckpoint)
}

// tile fetches hashes. Who calls checks them against a root.
func (s source) tile(ctx context.Context, t tile.Tile) ([]byte, error) {
	return s.get(ctx, t.Path(), tile.Size)
}

// bundle fetches the entries of a block up to width. Who calls checks them
// against a root.
func (s source) bundle(ctx context.Context, block uint64, width int) ([][]byte, error) {
	b, err := s.get(ctx, tile.Tile{L: tile.Entries, N: block, W: width}.Path(), maxBundle)
	if err != nil {
		return nil, err
	}
	list, err := ledger.ParseBundle(b, tile.Width)
	if err == nil && len(list) != width {
		err = fmt.Errorf("%w: bundle %d has %d entries, want %d", ledger.ErrMalformed, block, len(list), width)
	}
	return list, err
}

func (s source) get(ctx context.Context, path string, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", path, err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", path, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", path, err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("fetch %s: %w", path, ErrAbsent)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("fetch %s: status %d", path, resp.StatusCode)
	case int64(len(body)) > most:
		return nil, fmt.Errorf("fetch %s: %w: above %d bytes", path, ledger.ErrMalformed, most)
	}
	return body, nil
}

// First fetches the first entry of the log that is served under a URL prefix. It
// is not proved to be in any tree: it only tells how to open a copy. A nil rt is
// http.DefaultTransport.
func First(ctx context.Context, prefix string, rt http.RoundTripper) ([]byte, error) {
	list, err := newSource(prefix, rt).bundle(ctx, 0, 1)
	if err != nil {
		return nil, err
	}
	return list[0], nil
}
