package meshbench

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestEveryMeasurementHasItsYardstickInTheSameRun(t *testing.T) {
	var rows []Measurement
	if err := Run(t.Context(), time.Millisecond, func(m Measurement) { rows = append(rows, m) }); err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(plan) {
		t.Fatalf("%d of %d measurements", len(rows), len(plan))
	}
	for _, m := range rows {
		if m.OursNS <= 0 || m.YardNS <= 0 || m.Ratio <= 0 || m.Goal <= 0 || m.Yardstick == "" {
			t.Errorf("%s: a number is missing: %+v", m.Name, m)
		}
		if m.Met != (m.AtLeast && m.Ratio >= m.Goal || !m.AtLeast && m.Ratio <= m.Goal) {
			t.Errorf("%s: met is %v at ratio %v, goal %v", m.Name, m.Met, m.Ratio, m.Goal)
		}
	}
}

func TestMeasuringEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := Run(ctx, time.Millisecond, func(Measurement) { n++; cancel() })
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("got %d rows and %v after the first was cancelled", n, err)
	}
}
