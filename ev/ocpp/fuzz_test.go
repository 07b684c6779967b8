package ocpp

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestFramesRoundTrip(t *testing.T) {
	for _, f := range []frame{
		{Type: typeCall, ID: "1", Action: "Heartbeat", Payload: json.RawMessage(`{}`)},
		{Type: typeCallResult, ID: "1", Payload: json.RawMessage(`{"a":[1,2]}`)},
		{Type: typeCallError, ID: "1", Code: "GenericError", Description: "x", Payload: json.RawMessage(`{}`)},
	} {
		b, err := f.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseFrame(b)
		if err != nil || got.Type != f.Type || got.ID != f.ID || got.Action != f.Action || got.Code != f.Code ||
			got.Description != f.Description || !bytes.Equal(got.Payload, f.Payload) {
			t.Errorf("%s: got %+v %v", b, got, err)
		}
	}
}

func TestDescriptionIsCutToWhatOCPPAllows(t *testing.T) {
	b, err := frame{Type: typeCallError, ID: "1", Code: "GenericError", Description: strings.Repeat("ä", 300)}.encode()
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFrame(b)
	if err != nil || len([]rune(f.Description)) != maxDescription {
		t.Errorf("got %d characters, %v", len([]rune(f.Description)), err)
	}
}

func FuzzParseFrame(f *testing.F) {
	for _, s := range []string{`[2,"1","Heartbeat",{}]`, `[3,"1",{}]`, `[4,"1","GenericError","",{}]`, `[2,"1","A"]`, `[`, `{}`, `[2]`, `[5,"x"]`, `[4,"1","E",null]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := parseFrame(b)
		if err != nil {
			return
		}
		out, err := fr.encode()
		if err != nil {
			t.Fatalf("%s parsed but does not encode: %v", b, err)
		}
		again, err := parseFrame(out)
		if err != nil || again.Type != fr.Type || again.ID != fr.ID || again.Action != fr.Action {
			t.Fatalf("%s became %s, which reads as %+v, %v", b, out, again, err)
		}
	})
}
