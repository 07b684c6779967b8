package metering

import (
	"bytes"
	"testing"
	"time"

	"gridveil/node/alarm"
	"gridveil/node/report"
)

func FuzzParse(f *testing.F) {
	f.Add(Reference{ReadPeriod: time.Minute, ReportPeriod: time.Hour, Masked: true, LimitMW: 17_250_000}.Encode())
	e, _ := alarm.Event{Priority: alarm.P0, Kind: alarm.VoltageAbsent, At: 1, Count: 1}.Encode()
	f.Add(View{Detail: "phase 1", Event: e}.Encode())
	f.Add(View{Detail: "phase 1", Event: e, BoxKey: &report.BoxKey{1}, Chain: [][]byte{{1, 2}, {3}}}.Encode())
	f.Add(View{Event: e, Chain: [][]byte{{1, 2}}}.Encode())
	f.Add(OrderAnswer{Version: 7}.Encode())
	f.Add(OrderAnswer{Version: 7, Chain: [][]byte{{1, 2}, {3}}}.Encode())
	f.Add(append(make([]byte, 32), e...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseReference(b); err == nil && !bytes.Equal(r.Encode(), b) {
			t.Errorf("reference %x is not bijective", b)
		}
		if v, _, err := ParseView(b); err == nil && !bytes.Equal(v.Encode(), b) {
			t.Errorf("view %x is not bijective", b)
		}
		if a, err := ParseOrderAnswer(b); err == nil && !bytes.Equal(a.Encode(), b) {
			t.Errorf("answer to an order %x is not bijective", b)
		}
		if c, err := ParseChain(b); err == nil && !bytes.Equal(EncodeChain(c), b) {
			t.Errorf("chain %x is not bijective", b)
		}
		if n, err := ParseNotice(b); err == nil && !bytes.Equal(append(n.Source[:], n.Raw...), b) {
			t.Errorf("notice %x is not bijective", b)
		}
	})
}
