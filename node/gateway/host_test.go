package gateway

import (
	"testing"

	"gridveil/node/wallet"
)

func TestGuestChargesAndTheHouseIsPaid(t *testing.T) {
	s := newScene(t, sceneOptions{loadW: 500, pvW: 3_000})
	s.plug(electric())
	id := s.pay(wallet.Options{Band: 20, WantMWh: 3_000_000})
	s.eventually("receipt", func() bool { return len(s.market.Settled()) == 1 })
	s.eventually("paid", func() bool { return s.host.Sessions()[0].State == "paid" })
	row := s.host.Sessions()[0]
	if row.Case != "mixed" || row.KWhIn < 3 || row.ID != id {
		t.Errorf("session: %+v", row)
	}
	for _, b := range s.market.Settled() {
		var held int64
		n := s.host.purse.Standing()
		held = int64(n.Fresh+n.Swapped+n.Leaving) * 10_000
		if b.Host != held || b.Values.Pay != b.Host+b.Values.Pay-b.Values.Earn {
			t.Errorf("booked %+v, the house holds %d", b.Values, held)
		}
	}
	s.describe()
}
