package control

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandReachesTheRunningNode(t *testing.T) { reaches(t, t.TempDir()) }

// TestADataDirectoryMayHaveALongPath: longer than the name of a socket.
func TestADataDirectoryMayHaveALongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	reaches(t, dir)
}

func reaches(t *testing.T, dir string) {
	err := Call(t.Context(), dir, "status", nil, nil)
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "gridveil run") {
		t.Errorf("without a node: got %v", err)
	}
	// A socket that a killed node left behind must not keep the next one out.
	if err := os.WriteFile(filepath.Join(dir, SocketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := NewServer(dir)
	s.Handle("double", func(_ context.Context, in json.RawMessage) (any, error) {
		var n int
		if err := json.Unmarshal(in, &n); err != nil {
			return nil, errors.New("want a number")
		}
		return 2 * n, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	var got int
	for i := 0; got == 0; i++ {
		if err := Call(t.Context(), dir, "double", 21, &got); err != nil && !errors.Is(err, ErrNotRunning) {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if got != 42 {
		t.Errorf("double 21: got %d", got)
	}
	var refused *Error
	if err := Call(t.Context(), dir, "double", "x", nil); !errors.As(err, &refused) || refused.Text != "want a number" {
		t.Errorf("bad request: got %v", err)
	}
	if err := Call(t.Context(), dir, "nonsense", 1, nil); err == nil || !strings.Contains(err.Error(), "does not know") {
		t.Errorf("unknown command: got %v", err)
	}
	if err := NewServer(dir).Serve(ctx); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("second node: got %v", err)
	}
	if fi, err := os.Stat(filepath.Join(dir, SocketName)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket mode: %v %v", fi, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
