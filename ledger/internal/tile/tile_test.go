package tile

import (
	"bytes"
	"testing"
)

func TestPathsAreThoseOfTheSpec(t *testing.T) {
	for path, want := range map[string]Tile{
		"tile/0/x001/x234/067":       {0, 1234067, Width},
		"tile/entries/000.p/12":      {Entries, 0, 12},
		"tile/3/999":                 {3, 999, Width},
		"tile/63/x001/000.p/255":     {63, 1000, 255},
		"tile/entries/x012/x345/678": {Entries, 12345678, Width},
	} {
		if got, err := Parse(path); err != nil || got != want || got.Path() != path {
			t.Errorf("%s: got %+v, %v", path, got, err)
		}
	}
	for _, path := range []string{"", "tile", "tile/0", "tile/00/000", "tile/64/000", "tile/0/0", "tile/0/x000/000", "tile/0/001/002", "tile/0/000.p/0",
		"tile/0/000.p/256", "tile/0/000.p/01", "tile/-1/000", "/tile/0/000", "tile/0/000/", "tile/0/x001", "tile/0/+01"} {
		if got, err := Parse(path); err == nil {
			t.Errorf("%q: accepted as %+v", path, got)
		}
	}
}

// TestTilesOfTheSpecExample is the tree of 70 000 leaves in C2SP tlog-tiles.
func TestTilesOfTheSpecExample(t *testing.T) {
	count := map[Tile]int{}
	for _, tl := range Of(70_000) {
		count[Tile{L: tl.L, W: tl.W}]++
	}
	for kind, want := range map[Tile]int{{L: 0, W: 256}: 273, {L: 0, W: 112}: 1, {L: 1, W: 256}: 1, {L: 1, W: 17}: 1, {L: 2, W: 1}: 1, {L: Entries, W: 256}: 273, {L: Entries, W: 112}: 1} {
		if count[kind] != want {
			t.Errorf("%+v: got %d, want %d", kind, count[kind], want)
		}
	}
	if got := Of(256); len(got) != 3 || got[2] != (Tile{1, 0, 1}) {
		t.Errorf("a tree of 256: got %v", got)
	}
	if Of(0) != nil {
		t.Error("an empty tree has tiles")
	}
}

func TestEdgeAndTreeAgree(t *testing.T) {
	var edge Edge
	var all Hashes
	tiles := map[Tile][]byte{}
	for i := range 66_000 {
		leaf := [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}
		edge.Append(leaf, func(t Tile, data []byte) { tiles[t] = data })
		if err := all.Append(leaf); err != nil {
			t.Fatal(err)
		}
		if i%997 != 0 && i > 600 {
			continue
		}
		size := uint64(i + 1)
		want, err := all.Root(size)
		if err != nil {
			t.Fatal(err)
		}
		if edge.Root() != want {
			t.Fatalf("root of %d leaves differs", size)
		}
		checkTiles(t, size, want, &edge, &all, tiles)
	}
}

func checkTiles(t *testing.T, size uint64, root [32]byte, edge *Edge, all *Hashes, full map[Tile][]byte) {
	t.Helper()
	get := func(tl Tile) ([]byte, error) {
		if tl.W == Width {
			return full[tl], nil
		}
		return edge.Partial(tl.L), nil
	}
	for _, tl := range Of(size) {
		if tl.L == Entries || (tl.W == Width && size > 1000) {
			continue
		}
		want, err := all.Tile(tl)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := get(tl); !bytes.Equal(got, want) {
			t.Fatalf("size %d: %s differs", size, tl.Path())
		}
	}
	var again Edge
	if err := again.Restore(size, get); err != nil {
		t.Fatal(err)
	}
	if again.Root() != root {
		t.Fatalf("size %d: the restored edge has another root", size)
	}
	r := Reader(size, root, get)
	if _, err := r.ReadHashes([]int64{0}); err != nil {
		t.Fatalf("size %d: read through tiles: %v", size, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("tile/entries/x012/x345/678.p/3")
	f.Fuzz(func(t *testing.T, path string) {
		if tl, err := Parse(path); err == nil && tl.Path() != path {
			t.Fatalf("%q gives %+v", path, tl)
		}
	})
}
