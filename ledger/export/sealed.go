package export

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gridveil/ledger"
	"gridveil/ledger/internal/tile"
)

// Handler serves an export that no longer changes in its log's own place, as
// writer.Handler serves a log that grows, without a store:
//
//	GET /checkpoint, /tile/<L>/<N>[.p/<W>], /tile/entries/<N>[.p/<W>], /proof/<index>
func (d Dir) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", func(w http.ResponseWriter, _ *http.Request) {
		note, err := d.Checkpoint()
		serve(w, "text/plain; charset=utf-8", note, err)
	})
	mux.HandleFunc("GET /tile/{path...}", func(w http.ResponseWriter, r *http.Request) {
		b, err := d.part("tile/" + r.PathValue("path"))
		serve(w, "application/octet-stream", b, err)
	})
	mux.HandleFunc("GET /proof/{index}", func(w http.ResponseWriter, r *http.Request) {
		index, err := strconv.ParseUint(r.PathValue("index"), 10, 62)
		if err != nil {
			http.Error(w, "want /proof/<index of an entry>", http.StatusBadRequest)
			return
		}
		p, err := Prove(string(d), index)
		if err != nil {
			serve(w, "", nil, err)
			return
		}
		serve(w, "text/plain; charset=utf-8", p.Encode(), nil)
	})
	return mux
}

// serve answers with bytes that never change.
func serve(w http.ResponseWriter, kind string, b []byte, err error) {
	switch {
	case errors.Is(err, ErrMissing), errors.Is(err, ledger.ErrMalformed):
		http.Error(w, "the sealed log has no such thing", http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, "the file cannot be read", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(b) // the client is gone if this fails
}

// part reads a tile or bundle as wide as it is asked for: who followed the log
// while it grew may still ask for less than the file holds.
func (d Dir) part(path string) ([]byte, error) {
	t, err := tile.Parse(path)
	if err != nil {
		return nil, &FileError{path, ErrMissing}
	}
	limit := int64(tile.Size)
	if t.L == tile.Entries {
		limit = maxBundle
	}
	b, err := d.read(path, limit)
	if !errors.Is(err, ErrMissing) || t.W == tile.Width {
		return b, err
	}
	full := tile.Tile{L: t.L, N: t.N, W: tile.Width}
	if b, err = d.read(full.Path(), limit); errors.Is(err, ErrMissing) {
		if full.W, err = d.edge(full); err == nil {
			b, err = d.read(full.Path(), limit)
		}
	}
	if err != nil {
		return nil, err
	}
	return cut(b, t, full.W)
}

// edge is how wide the partial tile in the place of t is.
func (d Dir) edge(t tile.Tile) (int, error) {
	list, err := os.ReadDir(filepath.Join(string(d), filepath.FromSlash(t.Path())) + ".p")
	if err != nil || len(list) != 1 {
		return 0, &FileError{t.Path(), ErrMissing}
	}
	w, err := strconv.Atoi(strings.TrimSpace(list[0].Name()))
	if err != nil || w < 1 || w >= tile.Width {
		return 0, &FileError{t.Path(), ErrMissing}
	}
	return w, nil
}

// cut takes the first t.W parts of a file that has have.
func cut(b []byte, t tile.Tile, have int) ([]byte, error) {
	missing := &FileError{t.Path(), ErrMissing}
	if t.W > have {
		return nil, missing
	}
	if t.L != tile.Entries {
		const hash = tile.Size / tile.Width
		if len(b) < t.W*hash {
			return nil, missing
		}
		return b[:t.W*hash], nil
	}
	list, err := ledger.ParseBundle(b, tile.Width)
	if err != nil || len(list) < t.W {
		return nil, &FileError{t.Path(), ErrDiffers}
	}
	var out []byte
	for _, e := range list[:t.W] {
		out = ledger.AppendBundle(out, e)
	}
	return out, nil
}

// Sync makes every file of an export and its name durable.
func (d Dir) Sync() error {
	return filepath.WalkDir(string(d), func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
