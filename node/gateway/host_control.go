package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"gridveil/ev"
	nodecontrol "gridveil/node/control"
	"gridveil/node/store"
)

// ErrNoWallbox means that this home has no wallbox, so it has no guests.
var ErrNoWallbox = errors.New("this home has no wallbox\nnext: set evse.listen, and hosting.enabled for guests, in gridveil.toml; then start the node again")

// refuseGuests answers the commands of a host where there is no wallbox.
func refuseGuests(c *nodecontrol.Server) {
	if c == nil {
		return
	}
	for _, name := range []string{"guest-link", "sessions", "month", "charge", "stop-charge", "evse-accept", "evse-list", "card-add", "meter-cert"} {
		c.Handle(name, func(context.Context, json.RawMessage) (any, error) { return nil, ErrNoWallbox })
	}
}

// handleControl adds the commands that a host of cars answers:
//
//	guest-link  {"gateway"}        -> {"link"}         for the guest's wallet
//	charge      {"gift"}           -> {}               the own car, or a guest's as a gift
//	stop-charge {}                 -> {}
//	evse-accept {"id"}             -> {"password"}
//	evse-list   {}                 -> the wallboxes
//	card-add    {"token"}          -> {}               an own RFID card
//	sessions    {}                 -> the list of the Sessions page
//	month       {"month","signed"} -> the statement of a month
//	session     {"id"}             -> one of it in full
//	notes       {}                 -> the purse
//	notes-now   {}                 -> {}               collect, swap, redeem without delay
//	meter-cert  {"cert"}           -> {}               the grid operator's certificate over the meter; empty: none
func (h *hosting) handleControl() {
	c := h.env.Control
	if c == nil {
		return
	}
	handle(c, "guest-link", func(_ context.Context, in struct{ Gateway string }) (any, error) {
		link, err := h.guestLink(in.Gateway)
		return map[string]string{"link": link}, err
	})
	handle(c, "charge", func(_ context.Context, in struct{ Gift bool }) (any, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		return struct{}{}, h.startOwn(h.env.Clock.Now(), in.Gift)
	})
	handle(c, "stop-charge", func(context.Context, struct{}) (any, error) { return struct{}{}, h.stopCar() })
	handle(c, "evse-accept", func(ctx context.Context, in struct{ ID string }) (any, error) {
		password, err := h.accept(ctx, in.ID)
		return map[string]string{"password": password}, err
	})
	handle(c, "evse-list", func(context.Context, struct{}) (any, error) { return h.srv.List(), nil })
	handle(c, "card-add", func(_ context.Context, in struct{ Token string }) (any, error) {
		return struct{}{}, h.addCard(in.Token)
	})
	handle(c, "sessions", func(context.Context, struct{}) (any, error) { return h.Sessions(), nil })
	handle(c, "session", func(_ context.Context, in struct{ ID string }) (any, error) {
		s, ok := h.Session(in.ID)
		if !ok {
			return nil, fmt.Errorf("no session %q here: `gridveil guest sessions` lists them", in.ID)
		}
		return s, nil
	})
	handle(c, "month", func(_ context.Context, in monthAsked) (any, error) { return h.month(in) })
	handle(c, "notes", func(context.Context, struct{}) (any, error) { return h.purse.Standing(), nil })
	handle(c, "notes-now", func(context.Context, struct{}) (any, error) { return struct{}{}, h.purse.Hurry() })
	handle(c, "meter-cert", func(_ context.Context, in struct{ Cert string }) (any, error) { return struct{}{}, h.setCert(in.Cert) })
}

// handle answers a command whose request decodes into In.
func handle[In any](s *nodecontrol.Server, name string, fn func(ctx context.Context, in In) (any, error)) {
	s.Handle(name, func(ctx context.Context, raw json.RawMessage) (any, error) {
		var in In
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &in); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return fn(ctx, in)
	})
}

// stopCar ends what runs at the wallbox.
func (h *hosting) stopCar() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.current.s.State.Running() {
		return errors.New("no car is being charged")
	}
	t := h.turn(h.current, h.env.Clock.Now())
	t.session(ev.Stop{})
	return t.commit()
}

func cardKey(token string) []byte {
	return store.SpaceSettings.Key([]byte("card"), []byte{0}, []byte(token))
}

const maxCard = 36 // characters of an id token, OCPP 2.0.1

// addCard lets an own RFID card start sessions at the house's cost.
func (h *hosting) addCard(token string) error {
	if token == "" || len(token) > maxCard {
		return fmt.Errorf("a card's token has 1 to %d characters", maxCard)
	}
	return h.env.Store.Set(cardKey(token), []byte{1})
}

func (h *hosting) hasCard(token string) bool {
	_, err := h.env.Store.Get(cardKey(token))
	return err == nil
}
