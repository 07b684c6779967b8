package agg

import (
	"bytes"
	"testing"

	"gridveil/privacy"
)

func FuzzParse(f *testing.F) {
	z := newZone(f, 21)
	r := z.report(0, 5)
	f.Add(r.Bytes())
	f.Add(r.Short().Bytes())
	f.Add(z.task.Bytes())
	xs, _ := readings(21)
	res, list, err := finish(z.collect(xs))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(res.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseReport(b, privacy.SuiteX25519); err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Error("report: encode(decode(b)) is not b")
		}
		if x, err := ParseTask(b); err == nil && !bytes.Equal(x.Bytes(), b) {
			t.Error("task: encode(decode(b)) is not b")
		}
		if x, err := ParseResult(b); err == nil {
			if !bytes.Equal(x.Bytes(), b) {
				t.Error("result: encode(decode(b)) is not b")
			}
			if _, err := z.check(x, list); err == nil && !bytes.Equal(b, res.Bytes()) {
				t.Error("Check accepts another result")
			}
		}
	})
}

// FuzzServers feeds each server's steps with foreign bytes.
func FuzzServers(f *testing.F) {
	z := newZone(f, 21)
	xs, _ := readings(21)
	l, h := z.collect(xs)
	start := must(l.Start())(f)
	prepared := must(h.Prepare(start))(f)
	combine := must(l.Combine(prepared))(f)
	f.Add(start[:2000])
	f.Add(prepared)
	f.Add(combine)
	f.Add(must(h.Finish(combine))(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := must(NewLeader(z.leader, z.interval))(t)
		h := must(NewHelper(z.helper, z.interval, Past{}))(t)
		_, _ = l.Add(b)
		_, _ = l.Combine(b)
		_, _, _ = l.Publish(b)
		_, _ = h.Prepare(b)
		_, _ = h.Finish(b)
		// A round that is under way stands the same bytes.
		l.round = &round{}
		_, _ = l.Combine(b)
		if h.Past().Done {
			t.Error("foreign bytes made the helper sign")
		}
	})
}
