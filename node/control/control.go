// Package control is how `gridveil status`, `invite`, `wallet pay` and other
// commands talk to a running node: JSON over HTTP on a Unix socket in the data
// directory, which only the node's own user can open.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// SocketName is the socket's name inside a data directory.
const SocketName = "control.sock"

// maxBody bounds a request or answer.
const maxBody = 4 << 20

// patience is how long a command waits for its answer. Joining a session at a
// slow wallbox is the longest of them.
const patience = 5 * time.Minute

// ErrNotRunning means that no node listens in the data directory.
var ErrNotRunning = errors.New("no node is running here")

// Error is what a running node answered to a request it would not carry out.
type Error struct {
	Status int
	Text   string
}

func (e *Error) Error() string { return e.Text }

// Func answers one request: in is the JSON body, out is encoded as JSON.
type Func func(ctx context.Context, in json.RawMessage) (out any, err error)

// Server answers commands of this node's own user.
type Server struct {
	mux *http.ServeMux
	dir string
}

// NewServer will listen in dir.
func NewServer(dir string) *Server {
	return &Server{mux: http.NewServeMux(), dir: dir}
}

// Handle answers command name, such as "status", with fn.
func (s *Server) Handle(name string, fn Func) {
	s.mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": "read request: " + err.Error()})
			return
		}
		out, err := fn(r.Context(), body)
		if err != nil {
			reply(w, http.StatusConflict, map[string]string{"error": err.Error()})
			return
		}
		reply(w, http.StatusOK, out)
	})
}

// Serve answers until ctx ends. A socket left behind by a killed node is removed.
func (s *Server) Serve(ctx context.Context) error {
	path, done, err := socketPath(s.dir)
	if err != nil {
		return fmt.Errorf("listen on control socket: %w", err)
	}
	defer done()
	if err := removeStale(s.dir, path); err != nil {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("protect control socket: %w", err)
	}
	srv := &http.Server{Handler: s.mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Call asks the node that runs in dir and decodes its answer into out, which
// may be nil. It gives ErrNotRunning or an *Error.
func Call(ctx context.Context, dir, name string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode %s request: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			path, done, err := socketPath(dir)
			if err != nil {
				return nil, err
			}
			defer done()
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/"+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w\nnext: start it with `gridveil run --data %s`", ErrNotRunning, dir)
		}
		return fmt.Errorf("ask the node in %s: %w", dir, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp.StatusCode, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

func refusal(status int, answer []byte) error {
	var e struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(answer, &e) != nil || e.Error == "" {
		e.Error = fmt.Sprintf("the running node does not know this command (HTTP %d): is it an older version?", status)
	}
	return &Error{Status: status, Text: e.Error}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller hung up; nobody is left to tell
}

func removeStale(dir, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("a node is already running here (%s answers); stop it first", filepath.Join(dir, SocketName))
	}
	return os.Remove(path)
}

// longestPath is what every kernel takes as the name of a socket, in bytes.
const longestPath = 103

// socketPath names the socket of dir as long as done was not called: relative to
// the working directory when that is shorter, and where both are too long through
// the open directory, which Linux names by a number.
func socketPath(dir string) (path string, done func(), err error) {
	path, done = filepath.Join(dir, SocketName), func() {}
	if wd, err := os.Getwd(); err == nil && filepath.IsAbs(path) {
		if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
			path = rel
		}
	}
	if len(path) <= longestPath {
		return path, done, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	if path = fmt.Sprintf("/proc/self/fd/%d", d.Fd()); !isDir(path) {
		d.Close()
		return "", nil, fmt.Errorf("%s is too long for the name of a socket (%d bytes at most): run gridveil inside the data directory, or move it", filepath.Join(dir, SocketName), longestPath)
	}
	return filepath.Join(path, SocketName), func() { d.Close() }, nil
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
