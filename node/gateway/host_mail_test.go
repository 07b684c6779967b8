package gateway

import (
	"testing"

	"gridveil/mesh/mailbox"
	"gridveil/node/wallet"
)

func (s *scene) mailboxes(what string, boxes, items int) {
	s.t.Helper()
	s.eventually(what, func() bool {
		for _, k := range s.market.Keepers() {
			if b, i := s.market.Mailboxes(k.Key); b != boxes || i != items {
				return false
			}
		}
		return true
	})
}

// The driver leaves without a receipt, and never comes back to this house: what
// the house left in the mailbox is enough.
func TestDriverWhoLeftGetsTheReceiptFromTheMailbox(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500})
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20})
	s.eventually("acknowledged energy", func() bool { r := s.w().Sessions(); return len(r) == 1 && r[0].KWhIn > 0.5 })
	s.mailboxes("box open at both keepers", 1, 0)
	s.stopNode(s.guest)
	s.ends("paid")
	s.mailboxes("receipt left at both keepers", 1, 1)
	s.stopNode(s.home)
	s.startWallet()
	s.eventually("the driver has the receipt", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
	s.mailboxes("box closed after it", 0, 0)
	s.books(1)
}

// The ordinary case: the receipt comes at the door, nothing is left anywhere.
func TestReceiptAtTheDoorLeavesNoMail(t *testing.T) {
	t.Parallel() // they wait for their clocks most of the time
	s := newScene(t, sceneOptions{loadW: 500, speed: slowSpeed})
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 1_500_000})
	s.eventually("the driver has the receipt", func() bool { x, _ := s.w().Session(id); return x.State == "receipted" })
	s.mailboxes("box closed after it", 0, 0)
	s.eventually("nothing waits in the mailbag", func() bool {
		waiting, err := s.h().mailbag.List(0, 10)
		return err == nil && len(waiting) == 0
	})
	s.books(1)
}

func TestAMailboxThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t, sceneOptions{loadW: 500})
	if err := s.h().mailTo(&guestLine{}, make([]byte, mailbox.AddressSize)); err == nil {
		t.Error("an address without keepers is taken")
	}
	o := mailbox.Address{Keepers: [2]mailbox.Key{{1}, {2}}}
	if err := s.h().mailTo(&guestLine{}, o.Encode()); err == nil {
		t.Error("an address of nobody's session is taken")
	}
}
