package store

import (
	"errors"
	"net/http"
	"strconv"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// ServeTile answers a GET for "tile/<L>/<N>[.p/<W>]" or
// "tile/entries/<N>[.p/<W>]" of the tree of the first limit entries. What it
// serves never changes. Source: C2SP tlog-tiles.
func (s *Store) ServeTile(w http.ResponseWriter, path string, limit uint64) {
	t, err := tile.Parse(path)
	if err != nil {
		http.Error(w, "no such tile", http.StatusNotFound)
		return
	}
	n := limit
	if t.L > 0 {
		n >>= min(tile.Height*t.L, 63)
	}
	if t.N > n/tile.Width || t.N*tile.Width+uint64(t.W) > n {
		http.Error(w, "the tile is beyond the newest checkpoint", http.StatusNotFound)
		return
	}
	read := s.Tile
	if t.L == tile.Entries {
		read = s.Bundle
	}
	b, err := read(t)
	if errors.Is(err, ledger.ErrMalformed) {
		http.Error(w, "no such tile", http.StatusNotFound)
		return
	}
	if err != nil {
		s.opt.Log.Error("tile cannot be read", "err", err)
		http.Error(w, "the tile cannot be read", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(b) // the client is gone if this fails
}
