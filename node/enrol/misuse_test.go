package enrol

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"gridveil/mesh/member"
)

// try enrols a fresh device with a code and says how it ended.
func (d *desk) try(code member.Code) member.Refusal {
	d.t.Helper()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	ch := member.Channel{Network: d.bundle.Network, Pledge: member.Key(key.Public().(ed25519.PublicKey)), Seed: member.Key{9}}
	q, err := member.NewRequest(code, key, ch.Network, ch.Seed, rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	answer, err := d.Enrol(d.t.Context(), q, ch)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer.Refusal
}

func TestMisusedCodesAreToldOverARestartForAWeek(t *testing.T) {
	d := newDesk(t)
	invite := func() member.Code {
		t.Helper()
		inv, err := d.Invite(member.RoleGateway, "elm")
		if err != nil {
			t.Fatal(err)
		}
		return inv.Code
	}
	expect := func(fact string, raised int, want Misuse, stands bool) {
		t.Helper()
		m, ok, err := d.Misuse()
		if err != nil || ok != stands || ok && m != want || d.raised != raised {
			t.Errorf("%s: %+v, %v, raised %d times, %v; want %+v, %v, %d", fact, m, ok, d.raised, err, want, stands, raised)
		}
	}
	expect("nothing happened", 0, Misuse{}, false)

	guessed := invite()
	wrong := guessed
	wrong.Secret[0] ^= 1
	d.try(wrong)
	d.try(wrong)
	expect("two wrong proofs may be typing errors", 0, Misuse{}, false)
	d.try(wrong)
	expect("the third kills the code", 1, Misuse{At: d.now, Times: 1}, true)
	if got := d.try(guessed); got == member.RefusedNot {
		t.Error("a dead code admits a member")
	}

	d.now = d.now.Add(time.Hour)
	stolen := invite()
	if got := d.try(stolen); got != member.RefusedNot {
		t.Fatalf("first device: %v", got)
	}
	if got := d.try(stolen); got != member.RefusedUsed {
		t.Fatalf("second device: %v", got)
	}
	expect("a second device", 2, Misuse{At: d.now, Times: 2, Used: true}, true)
	d.open()
	expect("after a restart", 2, Misuse{At: d.now, Times: 2, Used: true}, true)
	d.now = d.now.Add(MisuseLasts)
	expect("a week later", 2, Misuse{}, false)
	d.try(stolen)
	expect("and again: counted anew", 3, Misuse{At: d.now, Times: 1, Used: true}, true)
}
