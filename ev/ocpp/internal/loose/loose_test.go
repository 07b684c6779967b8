package loose

import "testing"

func TestFieldsReadInEveryFormThatStationsSend(t *testing.T) {
	o := Parse([]byte(`{"n":1500.10,"s":"12","f":3.0,"half":2.5,"b":true,"bt":"TRUE","one":{"x":1},"many":[{"x":1},7,{"x":2}],"null":null,
		"t":"2026-03-01T10:00:00.5+01:00","naive":"2026-03-01T10:00:00","short":"2026-03-01T10:00:00+0100","bad":"yesterday"}`))
	for key, want := range map[string]string{"n": "1500.10", "s": "12", "b": "true", "one": "", "null": "", "none": ""} {
		if got := o.Text(key); got != want {
			t.Errorf("Text(%s): got %q, want %q", key, got, want)
		}
	}
	for key, want := range map[string]int{"s": 12, "f": 3, "half": -1, "bad": -1, "none": -1} {
		if got := o.IntOr(key, -1); got != want {
			t.Errorf("Int(%s): got %d, want %d", key, got, want)
		}
	}
	for key, want := range map[string]int64{"t": 1772355600500, "naive": 1772359200000, "short": 1772355600000, "bad": 0, "n": 0} {
		if got := o.Millis(key); got != want {
			t.Errorf("Millis(%s): got %d, want %d", key, got, want)
		}
	}
	if !o.Bool("b") || !o.Bool("bt") || o.Bool("n") {
		t.Error("Bool")
	}
	if len(o.List("one")) != 1 || len(o.List("many")) != 2 || o.List("n") != nil || o.Object("one").IntOr("x", 0) != 1 {
		t.Error("List or Object")
	}
	if o.Has("null") || !o.Has("n") {
		t.Error("Has")
	}
	for _, bad := range []string{"", "[]", "7", "{"} {
		if Parse([]byte(bad)) != nil {
			t.Errorf("Parse(%q) is not nil", bad)
		}
	}
}
