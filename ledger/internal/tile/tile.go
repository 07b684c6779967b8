// Package tile cuts an RFC 6962 tree into the tiles of C2SP tlog-tiles: 256
// hashes high 8, addressed as tile/<L>/<N>[.p/<W>]. It is pure; who stores
// tiles passes them in.
//
// golang.org/x/mod/sumdb/tlog has the tree arithmetic but other paths, so paths
// are ours.
package tile

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	// Height of a tile: it spans 2^8 hashes.
	Height = 8
	// Width of a full tile in hashes or entries.
	Width = 1 << Height
	// Size of a full tile of hashes in bytes.
	Size = Width * tlog.HashSize
	// Entries is the level that names bundles of entries.
	Entries = -1
)

// Tile addresses one tile or entry bundle. W is the number of hashes, Width for
// a full one.
type Tile struct {
	L int // level, or Entries
	N uint64
	W int
}

// Path is the C2SP path, such as "tile/0/x001/x234/067" or
// "tile/entries/000.p/12".
func (t Tile) Path() string {
	n := fmt.Sprintf("%03d", t.N%1000)
	for v := t.N / 1000; v > 0; v /= 1000 {
		n = fmt.Sprintf("x%03d/%s", v%1000, n)
	}
	level := "entries"
	if t.L != Entries {
		level = strconv.Itoa(t.L)
	}
	if t.W != Width {
		n += ".p/" + strconv.Itoa(t.W)
	}
	return "tile/" + level + "/" + n
}

// Parse reads a path; it accepts exactly what Path gives.
func Parse(path string) (Tile, error) {
	bad := fmt.Errorf("%q is no tile path", path)
	rest, ok := strings.CutPrefix(path, "tile/")
	level, rest, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || len(path) > 80 {
		return Tile{}, bad
	}
	t := Tile{L: Entries, W: Width}
	if level != "entries" {
		l, err := strconv.Atoi(level)
		if err != nil || l < 0 || l > 63 {
			return Tile{}, bad
		}
		t.L = l
	}
	if n, w, partial := strings.Cut(rest, ".p/"); partial {
		width, err := strconv.Atoi(w)
		if err != nil || width < 1 || width >= Width {
			return Tile{}, bad
		}
		rest, t.W = n, width
	}
	for _, part := range strings.Split(rest, "/") {
		n, err := strconv.ParseUint(strings.TrimPrefix(part, "x"), 10, 16)
		if err != nil || t.N > 1<<50 {
			return Tile{}, bad
		}
		t.N = t.N*1000 + n
	}
	if t.Path() != path {
		return Tile{}, bad
	}
	return t, nil
}

// Of lists the tiles and entry bundles of a tree of this size, by level (bundles
// first), then number. Partial ones are the right edge.
func Of(size uint64) []Tile {
	out := level(nil, Entries, size)
	for l := 0; size > 0; l++ {
		out = level(out, l, size)
		size /= Width
	}
	return out
}

func level(out []Tile, l int, n uint64) []Tile {
	for i := uint64(0); i < n/Width; i++ {
		out = append(out, Tile{l, i, Width})
	}
	if w := int(n % Width); w > 0 {
		out = append(out, Tile{l, n / Width, w})
	}
	return out
}

// Hashes is a tree in memory, as the stored hashes of package tlog. The zero
// value is the empty tree. It serves proofs as a tlog.HashReader.
type Hashes struct {
	size   int64
	stored []tlog.Hash
}

// Size is the number of leaves.
func (h *Hashes) Size() uint64 { return uint64(h.size) }

// Append adds a leaf by its RFC 6962 leaf hash.
func (h *Hashes) Append(leaf [32]byte) error {
	more, err := tlog.StoredHashesForRecordHash(h.size, tlog.Hash(leaf), h)
	if err != nil {
		return err
	}
	h.stored = append(h.stored, more...)
	h.size++
	return nil
}

// ReadHashes implements tlog.HashReader.
func (h *Hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(h.stored)) {
			return nil, fmt.Errorf("hash %d is not in a tree of %d leaves", x, h.size)
		}
		out[i] = h.stored[x]
	}
	return out, nil
}

// Root is the tree hash of the first n leaves.
func (h *Hashes) Root(n uint64) ([32]byte, error) {
	if n > uint64(h.size) {
		return [32]byte{}, fmt.Errorf("root of %d leaves in a tree of %d", n, h.size)
	}
	root, err := tlog.TreeHash(int64(n), h)
	return [32]byte(root), err
}

// Tile gives the hashes of a tile of levels 0 and above.
func (h *Hashes) Tile(t Tile) ([]byte, error) {
	return tlog.ReadTileData(tlog.Tile{H: Height, L: t.L, N: int64(t.N), W: t.W}, h)
}
