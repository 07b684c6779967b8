package site

import (
	"testing"

	"gridveil/node/config"
)

func TestEveryRuleForGuestsHasWords(t *testing.T) {
	for _, policy := range []string{"ev-first", "home-first", "pro-rata"} {
		for _, offline := range []string{"trust", "gift", "refuse"} {
			for _, cut := range []string{"stop", "gift", "unattended"} {
				for _, p := range guestTerms(config.Hosting{Policy: policy, OfflineGuest: offline, OnCut: cut, TrustLimit: 10_000_000}) {
					if p.Value == "" {
						t.Errorf("%s, %s, %s: %q has no words", policy, offline, cut, p.Name)
					}
				}
			}
		}
	}
}
