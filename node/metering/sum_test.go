package metering

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"gridveil/mesh/member"
	"gridveil/privacy/agg"
)

// wire joins a sender to a receiver that answers with what it got.
func wire(t *testing.T, j *SumJoin, answer func(SumStep, []byte) ([]byte, error)) func(context.Context, []byte) ([]byte, error) {
	t.Helper()
	return func(_ context.Context, frame []byte) ([]byte, error) {
		step, whole, err := j.Take(member.Key{1}, frame)
		if err != nil || whole == nil {
			return SumAnswer(nil, err), nil
		}
		return SumAnswer(answer(step, whole)), nil
	}
}

func TestLongMessagesOfASumArriveWhole(t *testing.T) {
	for _, size := range []int{0, 1, sumPart, sumPart + 1, maxSumParts * sumPart} {
		msg := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		call := wire(t, &SumJoin{}, func(step SumStep, whole []byte) ([]byte, error) {
			if step != SumPrepare || !bytes.Equal(whole, msg) {
				t.Errorf("%d bytes: got %d bytes of step %d", size, len(whole), step)
			}
			return []byte("answer"), nil
		})
		if got, err := SendSum(t.Context(), call, SumPrepare, msg); err != nil || string(got) != "answer" {
			t.Errorf("%d bytes: answer %q, %v", size, got, err)
		}
	}
	if _, err := SendSum(t.Context(), nil, SumPrepare, make([]byte, maxSumParts*sumPart+1)); !errors.Is(err, ErrMessage) {
		t.Errorf("above the limit: %v", err)
	}
}

func TestErrorsOfASumTravelAsThemselves(t *testing.T) {
	for _, want := range sumErrors[1:] {
		call := wire(t, &SumJoin{}, func(SumStep, []byte) ([]byte, error) { return nil, want })
		if _, err := SendSum(t.Context(), call, SumCombine, []byte("x")); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestSumJoinForgetsTheOldestMessage(t *testing.T) {
	j := &SumJoin{}
	first := func(n byte) []byte {
		return append(append([]byte{byte(SumPrepare)}, bytes.Repeat([]byte{n}, 16)...), 0, 2, 'x')
	}
	for n := range byte(3 * maxSumOpen) {
		if _, _, err := j.Take(member.Key{n}, first(n)); err != nil {
			t.Fatal(err)
		}
	}
	if len(j.open) > maxSumOpen || len(j.order) > maxSumOpen {
		t.Errorf("%d messages open, at most %d", len(j.open), maxSumOpen)
	}
	second := first(0)
	second[17] = 1
	if _, _, err := j.Take(member.Key{0}, second); !errors.Is(err, ErrSumLater) {
		t.Errorf("a part of a forgotten message: %v", err)
	}
}

func FuzzSum(f *testing.F) {
	net := int64(-5)
	f.Add(SumDelivery{Feeder: &net, List: [][]byte{{1}, {}}}.Bytes())
	f.Add(SumDelivery{}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseSumDelivery(b); err == nil && !bytes.Equal(d.Bytes(), b) {
			t.Errorf("delivery %x is not bijective", b)
		}
		_, _, _ = (&SumJoin{}).Take(member.Key{}, b) // must not panic
		_, _ = parseSumAnswer(b)
	})
}

func TestTheZerothResultIsABody(t *testing.T) {
	if _, err := ParseSumDelivery(SumDelivery{Result: agg.Result{N: 3}}.Bytes()); err != nil {
		t.Error(err)
	}
}
