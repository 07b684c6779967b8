package ask

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gridveil/mesh"
)

func TestAnswersComeBackAsTheyWere(t *testing.T) {
	body, err := ParseAnswer(Answer([]byte("x"), nil))
	if err != nil || string(body) != "x" {
		t.Errorf("body: %q %v", body, err)
	}
	var later *NotYetError
	if _, err := ParseAnswer(Answer(nil, &NotYetError{90 * time.Second})); !errors.As(err, &later) || later.After != 90*time.Second {
		t.Errorf("not yet: %v", err)
	}
	var no *RefusedError
	if _, err := ParseAnswer(Answer(nil, errors.New(strings.Repeat("a", 500)))); !errors.As(err, &no) || len(no.Reason) != maxReason {
		t.Errorf("refusal: %v", err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 9})
	f.Add([]byte{2, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := ParseAnswer(b)
		if !errors.Is(err, ErrAnswer) && !bytes.Equal(Answer(body, err), b) && (len(b) != 5 || b[0] != 1) {
			t.Fatalf("%x is not what it decodes to", b)
		}
	})
}

func TestAMissingOperatorIsLookedForSoon(t *testing.T) {
	usual := 2 * time.Minute
	for _, c := range []struct {
		err  error
		want time.Duration
	}{
		{errors.New("refused"), usual}, {fmt.Errorf("utility: %w", ErrNoOperator), 5 * time.Second}, {fmt.Errorf("call: %w", mesh.ErrFewRelays), 5 * time.Second},
		{fmt.Errorf("call: %w", mesh.ErrUnacked), usual}, {&NotYetError{10 * time.Second}, 10 * time.Second},
		{&NotYetError{0}, time.Second}, {&NotYetError{time.Hour}, usual},
	} {
		if got := Again(c.err, usual); got != c.want {
			t.Errorf("after %v: %v, want %v", c.err, got, c.want)
		}
	}
}
