package lane

import (
	"errors"
	"testing"
)

func TestSoManyBulkMessagesComeInAtOnceAndNoMore(t *testing.T) {
	k := New(Config{})
	begin := func(id uint32) error {
		_, _, err := k.assemble(Frame{ID: id, Type: Req, Body: []byte("first")})
		return err
	}
	for id := range uint32(maxAssembly) {
		if err := begin(2*id + 1); err != nil {
			t.Fatalf("message %d: %v", id+1, err)
		}
	}
	if err := begin(2*maxAssembly + 1); !errors.Is(err, ErrFrame) {
		t.Errorf("message %d: %v, want ErrFrame", maxAssembly+1, err)
	}
	if _, whole, err := k.assemble(Frame{ID: 1, Type: End}); !whole || err != nil {
		t.Fatalf("the first message does not end: %v", err)
	}
	if err := begin(2*maxAssembly + 3); err != nil {
		t.Errorf("after the end of one: %v", err)
	}
}
