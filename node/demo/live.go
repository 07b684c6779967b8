package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"gridveil/node/clock"
	"gridveil/node/web"
)

// Live runs a neighbourhood with a dashboard until ctx ends.
func Live(ctx context.Context, o Options) error {
	if o.Ledger == "" {
		o.Ledger = "127.0.0.1:0"
	}
	s, err := Build(o)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Talk, "gridveil demo: %d homes, %d nodes on loopback; nothing leaves this machine\n", s.Homes, len(s.Members))
	err = s.run(ctx, func(ctx context.Context, st *Story) error {
		site, err := web.New(NewSite(s, st), s.Log)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", s.Listen)
		if err != nil {
			return fmt.Errorf("dashboard: %w\nnext: choose another address with --listen", err)
		}
		fmt.Fprintf(s.Talk, "dashboard     http://%s\n", l.Addr())
		log := s.outside(ctx)
		fmt.Fprintf(s.Talk, "ledger        %s; check it from outside, in another terminal:\n", log)
		fmt.Fprintf(s.Talk, "              curl %s/policy > demo.policy && gridveil verifier --log %s --policy demo.policy\n", log, log)
		fmt.Fprintf(s.Talk, "clock         %.0fx real time, a day in %v; Ctrl-C ends it\n", s.Speed, (24 * time.Hour / time.Duration(s.Speed)).Round(time.Second))
		fmt.Fprintf(s.Talk, "data          %s\n", s.Dir)
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return site.Serve(ctx, l) })
		g.Go(func() error {
			if err := s.settleIn(ctx, st); err != nil {
				return err
			}
			for ctx.Err() == nil {
				if err := st.Day(ctx); err != nil {
					return err
				}
			}
			return nil
		})
		return g.Wait()
	})
	if ctx.Err() != nil {
		err = nil // Ctrl-C is how it ends
	}
	return errors.Join(err, s.Remove())
}

// outside is where the log is served to those who are no members.
func (s *Scene) outside(ctx context.Context) string {
	for {
		if a, err := s.aggregator(); err == nil && a.Outside() != "" {
			return a.Outside()
		}
		if !clock.Sleep(ctx, clock.Wall{}, 10*time.Millisecond) {
			return "nowhere"
		}
	}
}
