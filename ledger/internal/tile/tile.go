// Package tile cuts an RFC 6962 tree into the tiles of C2SP tlog-tiles: 256
// hashes high 8, addressed as tile/<L>/<N>[.p/<W>]. It is pure; who stores
// tiles passes them in.
//
// golang.org/x/mod/sumdb/tlog has the tree arithmetic but other paths, so paths
// are ours.
package tile

import (
	"crypto/sha256"
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

// Edge is the right edge of a tree: per level the hashes of the tile that is not
// full yet. It grows without the rest of the tree. The zero value is empty.
type Edge struct {
	size   uint64
	levels [][]tlog.Hash
}

// Size is the number of leaves.
func (e *Edge) Size() uint64 { return e.size }

// Append adds a leaf hash and calls full for each tile that this completes, from
// level 0 upwards.
func (e *Edge) Append(leaf [32]byte, full func(t Tile, data []byte)) {
	h := tlog.Hash(leaf)
	e.size++
	for l, n := 0, e.size; ; l++ {
		if l == len(e.levels) {
			e.levels = append(e.levels, nil)
		}
		e.levels[l] = append(e.levels[l], h)
		if len(e.levels[l]) < Width {
			return
		}
		n /= Width // now the number of full tiles at this level
		full(Tile{l, n - 1, Width}, join(e.levels[l]))
		h = perfect(e.levels[l])
		e.levels[l] = e.levels[l][:0]
	}
}

// Restore sets the edge of a tree of size leaves; partial gives the data of each
// partial tile that Of(size) lists.
func (e *Edge) Restore(size uint64, partial func(Tile) ([]byte, error)) error {
	e.size, e.levels = size, nil
	for l, n := 0, size; n > 0; l, n = l+1, n/Width {
		t := Tile{l, n / Width, int(n % Width)}
		var hashes []tlog.Hash
		if t.W > 0 {
			data, err := partial(t)
			if err != nil {
				return err
			}
			if len(data) < t.W*tlog.HashSize {
				return fmt.Errorf("%s has %d bytes", t.Path(), len(data))
			}
			for i := range t.W {
				hashes = append(hashes, tlog.Hash(data[i*tlog.HashSize:]))
			}
		}
		e.levels = append(e.levels, hashes)
	}
	return nil
}

// Partial gives the data of the partial tile at a level, nil if it is empty.
func (e *Edge) Partial(l int) []byte {
	if l < 0 || l >= len(e.levels) {
		return nil
	}
	return join(e.levels[l])
}

// Root is the tree hash of all leaves: subtrees of falling size, from the right.
func (e *Edge) Root() [32]byte {
	var acc *tlog.Hash
	for _, hashes := range e.levels {
		for end := len(hashes); end > 0; {
			n := end & -end // the rightmost perfect subtree of this level
			h := perfect(hashes[end-n : end])
			if acc != nil {
				h = tlog.NodeHash(h, *acc)
			}
			acc = &h
			end -= n
		}
	}
	if acc == nil {
		return sha256.Sum256(nil)
	}
	return [32]byte(*acc)
}

// perfect is the root over a power of two of hashes.
func perfect(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	mid := len(hashes) / 2
	return tlog.NodeHash(perfect(hashes[:mid]), perfect(hashes[mid:]))
}

func join(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for i := range hashes {
		b = append(b, hashes[i][:]...)
	}
	return b
}

// Reader reads single hashes of a tree from its tiles. What get returns is
// checked against the root, so tiles may come from anywhere.
func Reader(size uint64, root [32]byte, get func(Tile) ([]byte, error)) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: int64(size), Hash: tlog.Hash(root)}, source(get))
}

// source is a tlog.TileReader without a cache.
type source func(Tile) ([]byte, error)

func (source) Height() int { return Height }

func (get source) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := get(Tile{t.L, uint64(t.N), t.W})
		if err != nil {
			return nil, err
		}
		out[i] = data
	}
	return out, nil
}

func (source) SaveTiles([]tlog.Tile, [][]byte) {}
