package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/ledger"
	"gridveil/node/party"
	"gridveil/node/verifier"
	"gridveil/node/web"
)

// WatchOptions are those of `gridveil verifier`.
type WatchOptions struct {
	Dir      string
	Log      string // URL or multiaddr; empty takes the policy's
	Policy   string // file
	Peers    []string
	Receipts []string // files of one each
	After    string   // folder with the export of the sealed log before
	Every    time.Duration
	Page     string // loopback address of the page, empty for none
	Serve    string // address at which the copy is served, empty for nowhere
	Logger   *slog.Logger
}

func readPolicy(file string) (*ledger.Policy, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := ledger.ParsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

func (o WatchOptions) open(ctx context.Context) (*verifier.Watch, error) {
	policy, err := readPolicy(o.Policy)
	if err != nil {
		return nil, err
	}
	cfg := verifier.WatchConfig{Dir: o.Dir, Policy: policy, Log: o.Log, Peers: o.Peers, Every: o.Every, After: o.After, Logger: o.Logger}
	for _, name := range o.Receipts {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("receipt: %w", err)
		}
		r, err := ledger.ParseReceipt(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		cfg.Receipts = append(cfg.Receipts, verifier.Receipt{Name: filepath.Base(name), Receipt: r})
	}
	return verifier.OpenWatch(ctx, cfg)
}

// WatchOnce looks at a log once.
func WatchOnce(ctx context.Context, o WatchOptions) (r verifier.Report, err error) {
	w, err := o.open(ctx)
	if err != nil {
		return r, err
	}
	if r, err = w.Look(ctx); err == nil {
		err = w.SettleAll(ctx)
	}
	return r, errors.Join(err, w.Close())
}

// RunWatch looks at a log again and again until ctx ends. ready is called once
// with the addresses that it answers at, empty where it does not; told after
// each look.
func RunWatch(ctx context.Context, o WatchOptions, ready func(page, mirror string), told func(verifier.Report)) error {
	w, err := o.open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(o.serve(ctx, w, ready, told), w.Close())
}

func (o WatchOptions) serve(ctx context.Context, w *verifier.Watch, ready func(page, mirror string), told func(verifier.Report)) error {
	page, mirror := "", ""
	parts := []func(context.Context) error{func(ctx context.Context) error { return w.Serve(ctx, told) }}
	if o.Serve != "" {
		l, err := net.Listen("tcp", o.Serve)
		if err != nil {
			return fmt.Errorf("serve the copy: %w\nnext: choose another address with --serve", err)
		}
		defer l.Close()
		mirror = "http://" + l.Addr().String()
		parts = append(parts, func(ctx context.Context) error { return party.ServeHTTP(ctx, l, w.Mirror()) })
	}
	if o.Page != "" {
		if host, _, err := net.SplitHostPort(o.Page); err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback() {
			return fmt.Errorf("page: want a loopback address such as 127.0.0.1:7090, got %q: the page has no password", o.Page)
		}
		l, err := net.Listen("tcp", o.Page)
		if err != nil {
			return fmt.Errorf("page: %w\nnext: choose another address with --page", err)
		}
		defer l.Close()
		page = "http://" + l.Addr().String()
		site, err := web.NewWatch(verifier.Page(w, mirror), o.Logger)
		if err != nil {
			return err
		}
		parts = append(parts, func(ctx context.Context) error { return site.Serve(ctx, l) })
	}
	ready(page, mirror)
	g, ctx := errgroup.WithContext(ctx)
	for _, serve := range parts {
		g.Go(func() error { return serve(ctx) })
	}
	return g.Wait()
}
