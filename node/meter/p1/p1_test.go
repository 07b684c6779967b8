package p1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"gridveil/node/meter"
	"gridveil/node/model"
)

// sample is a telegram of our own encoder, in the shape of a DSMR 5 meter's.
func sample() Telegram {
	return Telegram{Ident: `GVL5\253TEST`, CRC: true, Objects: []Object{
		{"1-3:0.2.8", []string{"50"}},
		{"0-0:1.0.0", []string{"240701121530S"}},
		{"0-0:96.1.1", []string{"4B384547303034303436333935353037"}},
		{"1-0:1.8.1", []string{"000004.426*kWh"}},
		{"1-0:1.8.2", []string{"000002.399*kWh"}},
		{"1-0:2.8.1", []string{"000002.444*kWh"}},
		{"1-0:2.8.2", []string{"000000.000*kWh"}},
		{"0-0:96.14.0", []string{"0002"}},
		{"1-0:1.7.0", []string{"00.244*kW"}},
		{"1-0:99.97.0", []string{"1", "0-0:96.7.19", "190326095015W", "0000002014*s"}},
		{"1-0:32.7.0", []string{"230.1*V"}},
		{"1-0:31.7.0", []string{"0.48*A"}},
		{"0-1:24.2.1", []string{"170102161005W", "00000.107*m3"}},
		{"0-0:96.13.0", []string{""}},
	}}
}

func TestTelegramBecomesIntegers(t *testing.T) {
	f, err := Decode(sample().Encode(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[model.Channel]int64{
		model.ImportT1: 4_426_000, model.ImportT2: 2_399_000, model.ExportT1: 2_444_000, model.ExportT2: 0,
		model.ImportTotal: 6_825_000, model.ExportTotal: 2_444_000, model.TariffIndicator: 2, model.PowerImport: 244_000,
		model.VoltageL1: 230_100, model.CurrentL1: 480,
	}
	got := map[model.Channel]int64{}
	for _, v := range f.Values {
		got[v.Channel] = v.N
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("values: got %v, want %v", got, want)
	}
	if at := time.UnixMilli(f.MeterTime).UTC(); !at.Equal(time.Date(2024, 7, 1, 10, 15, 30, 0, time.UTC)) {
		t.Errorf("summer time 12:15:30 is %v", at)
	}
	if f.Integrity != model.IntegrityChecksum || f.Device == (meter.Device{}) || f.Device != DeviceOf("4B384547303034303436333935353037") {
		t.Errorf("integrity %v, device %x", f.Integrity, f.Device)
	}
}

func TestParseIsTheInverseOfEncode(t *testing.T) {
	want := sample()
	got, err := Parse(want.Encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	want.CRC, want.Objects = false, want.Objects[1:] // a meter before DSMR 4
	if got, err = Parse(want.Encode()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("without CRC: got %+v, %v", got, err)
	}
}

func TestEveryOneBitFlipIsRefused(t *testing.T) {
	raw := sample().Encode()
	for i := range len(raw) * 8 {
		bad := bytes.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := Parse(bad); !errors.Is(err, meter.ErrInvalidFrame) {
			t.Fatalf("bit %d of byte %d (%q): %v", i%8, i/8, raw[i/8], err)
		}
	}
}

func TestLeadingZeroOfTheChecksumMayBeMissing(t *testing.T) {
	tel := sample()
	for n := range 100_000 {
		tel.Objects[3].Values[0] = fmt.Sprintf("%06d.426*kWh", n)
		raw := tel.Encode()
		i := bytes.LastIndexByte(raw, '!')
		if raw[i+1] != '0' {
			continue
		}
		short := append(bytes.Clone(raw[:i+1]), raw[i+2:]...)
		if _, err := Parse(short); err != nil {
			t.Errorf("%q: %v", short[i:], err)
		}
		return
	}
	t.Error("no telegram with a leading zero found")
}

func TestBadTelegramsAreRefusedWithoutTheirContent(t *testing.T) {
	const secret = "12345678"
	cases := map[string]string{
		"empty":                  "",
		"no start":               "x\r\n!\r\n",
		"no end":                 "/X\r\n0-0:1.0.0(1)\r\n",
		"no identification":      "/\r\n\r\n!\r\n",
		"line without brackets":  "/X\r\n" + secret + "\r\n!\r\n",
		"open bracket":           "/X\r\n0-0:1.0.0(" + secret + "\r\n!\r\n",
		"brackets in brackets":   "/X\r\n0-0:1.0.0((" + secret + "))\r\n!\r\n",
		"value before any code":  "/X\r\n(" + secret + ")\r\n!\r\n",
		"code with letters":      "/X\r\n0-0:x.0.0(" + secret + ")\r\n!\r\n",
		"checksum of five":       "/X\r\n!00000\r\n",
		"checksum in lower case": "/X\r\n!abcd\r\n",
		"checksum wrong":         "/X\r\n!0001\r\n",
		"control character":      "/X\r\n0-0:96.13.0(\x01" + secret + ")\r\n!\r\n",
		"version without CRC":    "/X\r\n1-3:0.2.8(50)\r\n!\r\n",
		"too long":               "/X\r\n" + strings.Repeat("0-0:96.13.0("+secret+")\r\n", 400) + "!\r\n",
		"too many lines":         "/X\r\n" + strings.Repeat("0-0:96.1.9(1)\r\n", 300) + "!\r\n",
		"two values of one code": "/X\r\n1-0:1.8.0(1*kWh)\r\n1-0:1.8.0(2*kWh)\r\n!\r\n",
		"energy with letters":    "/X\r\n1-0:1.8.0(1a*kWh)\r\n!\r\n",
		"energy without digits":  "/X\r\n1-0:1.8.0(.1*kWh)\r\n!\r\n",
		"energy of 2^53 mWh":     "/X\r\n1-0:1.8.0(9007199255*kWh)\r\n!\r\n",
		"31 February":            "/X\r\n0-0:1.0.0(240231120000W)\r\n!\r\n",
		"time without season":    "/X\r\n0-0:1.0.0(240201120000)\r\n!\r\n",
	}
	for name, raw := range cases {
		_, err := Decode([]byte(raw), Options{})
		if !errors.Is(err, meter.ErrInvalidFrame) {
			t.Errorf("%s: got %v, want ErrInvalidFrame", name, err)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error shows the content: %v", name, err)
		}
	}
}

func TestFinerThanOneMilliwattHourIsMarked(t *testing.T) {
	for text, want := range map[string]struct {
		n       int64
		rounded bool
	}{
		"00052185.7825309*kWh": {52_185_782_530, true},
		"00052185.7825300*kWh": {52_185_782_530, false},
		"006545766*Wh":         {6_545_766_000, false},
		"1*kWh":                {1_000_000, false},
	} {
		tel := Telegram{Ident: "X", Objects: []Object{{"1-0:1.8.0*255", []string{text}}}}
		f, err := tel.Frame(Options{})
		n, ok := f.Get(model.ImportTotal)
		if err != nil || !ok || n != want.n || (f.Status&model.StatusRounded != 0) != want.rounded {
			t.Errorf("%s: got %d, rounded %v, %v", text, n, f.Status, err)
		}
	}
}

func TestFormatFixedIsReadBack(t *testing.T) {
	for _, c := range []struct {
		n        int64
		decimals int
		want     string
	}{
		{1_234_567, 3, "000001.234*kWh"}, {1_234_567, 6, "000001.234567*kWh"}, {0, 3, "000000.000*kWh"},
		{999_999_999_999, 3, "999999.999*kWh"}, {5, 6, "000000.000005*kWh"},
	} {
		if got := FormatFixed(c.n, 6, c.decimals, "kWh"); got != c.want {
			t.Errorf("%d: got %s, want %s", c.n, got, c.want)
		}
	}
}

func TestScannerFindsTelegramsInNoise(t *testing.T) {
	good := sample().Encode()
	stream := bytes.Join([][]byte{
		[]byte("noise ! \x00\xff"), good, []byte("tail"), good[:100], []byte("\r\n"), good, good, bytes.Repeat([]byte{'/'}, 3*MaxTelegram), good,
	}, nil)
	for _, chunk := range []int{1, 7, 64, len(stream)} {
		var s Scanner
		n := 0
		for at := 0; at < len(stream); at += chunk {
			s.Feed(stream[at:min(at+chunk, len(stream))], func(raw []byte) error {
				if _, err := Parse(raw); err == nil {
					n++
				}
				return nil
			})
		}
		if n < 3 || s.Lost == 0 {
			t.Errorf("chunks of %d: %d telegrams, %d lost", chunk, n, s.Lost)
		}
		if len(s.buf) > MaxTelegram {
			t.Errorf("scanner holds %d bytes", len(s.buf))
		}
	}
}

func TestTCPSourceCountsGoodAndBad(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	good := sample().Encode()
	bad := bytes.Clone(good)
	bad[40] ^= 1
	go func() { // ends with the connection that the source closes
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Write(bytes.Join([][]byte{good, bad, good}, nil))
		c.Close()
	}()
	s, err := New("tcp://"+ln.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	frames := 0
	err = s.Run(context.Background(), func(meter.Frame) error { frames++; return nil })
	if err == nil || frames != 2 || s.Link() != (meter.Link{Good: 2, Bad: 1}) {
		t.Errorf("%d frames, link %+v, %v", frames, s.Link(), err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s, err := New("tcp://"+ln.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, nil) }()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v, want context.Canceled", err)
	}
}

func TestAddresses(t *testing.T) {
	for _, good := range []string{"tcp://10.0.0.2:2001", "serial:///dev/ttyUSB0", "serial:///dev/ttyUSB0?baud=9600&mode=7E1"} {
		if _, err := New(good, Options{}); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "tcp://host", "serial://dev", "serial:///dev/x?baud=abc", "serial:///dev/x?mode=9X9", "http://x", "tcp://h:1/path"} {
		if _, err := New(bad, Options{}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// conformance returns the folder of public vectors, or "" when it is absent.
func conformance(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("GRIDVEIL_CONFORMANCE")
	if dir == "" {
		dir = "../../../../shared/conformance"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no conformance material at %s: set GRIDVEIL_CONFORMANCE to run this part", dir)
	}
	return dir
}

var (
	literal = regexp.MustCompile(`(?ms)\A(TELEGRAM_\w+) = \(\n(.*?)^\)`)
	quoted  = regexp.MustCompile(`'((?:[^'\\]|\\.)*)'`)
	escaped = regexp.MustCompile(`\\(r|n|\\|x[0-9a-fA-F]{2}|[0-7]{1,3})`)
)

// pythonTelegrams reads the string literals of dsmr_parser's example file.
func pythonTelegrams(t *testing.T, path string) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, part := range regexp.MustCompile(`(?m)^TELEGRAM_`).Split(string(text), -1)[1:] {
		m := literal.FindStringSubmatch("TELEGRAM_" + part)
		if m == nil {
			continue
		}
		var b []byte
		for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
			b = append(b, escaped.ReplaceAllStringFunc(q[1], func(e string) string {
				switch {
				case e == `\r`:
					return "\r"
				case e == `\n`:
					return "\n"
				case e == `\\`:
					return `\`
				case e[1] == 'x':
					var x byte
					fmt.Sscanf(e[2:], "%02x", &x)
					return string([]byte{x})
				}
				var x byte
				fmt.Sscanf(e[1:], "%o", &x)
				return string([]byte{x})
			})...)
		}
		out[m[1]] = b
	}
	return out
}

func TestPublicTelegrams(t *testing.T) {
	all := pythonTelegrams(t, filepath.Join(conformance(t), "dsmr", "example_telegrams.py"))
	good, unchecked := 0, 0
	for name, raw := range all {
		var s Scanner
		var frames []meter.Frame
		s.Feed(raw, func(tel []byte) error {
			f, err := Decode(tel, Options{})
			if err != nil {
				t.Logf("%s: %v", name, err)
				return nil
			}
			frames = append(frames, f)
			return nil
		})
		if len(frames) != 1 {
			t.Errorf("%s: %d frames, want 1", name, len(frames))
			continue
		}
		f := frames[0]
		if f.Integrity == model.IntegrityChecksum {
			good++
		} else {
			unchecked++
		}
		if n, ok := f.Get(model.ImportTotal); name != "TELEGRAM_UNPADDED_CRC" && (!ok || n == 0) {
			t.Errorf("%s: no import register", name)
		}
	}
	if len(all) != 13 || good != 9 || unchecked != 4 {
		t.Errorf("%d telegrams, %d with a good checksum, %d without; want 13, 9, 4", len(all), good, unchecked)
	}
}

func FuzzP1(f *testing.F) {
	f.Add(sample().Encode())
	f.Add([]byte("/X\r\n0-0:1.0.0(1)\r\n(2)\r\n!\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var s Scanner
		s.Feed(in, func([]byte) error { return nil })
		tel, err := Parse(in)
		if err != nil {
			return
		}
		again, err := Parse(tel.Encode())
		if err != nil && len(tel.Encode()) <= MaxTelegram {
			t.Fatalf("own encoding is refused: %v", err)
		}
		if err == nil && !reflect.DeepEqual(again, tel) {
			t.Fatal("telegram is not the same after a round trip")
		}
		tel.Frame(Options{})
	})
}

func BenchmarkP1(b *testing.B) {
	raw := sample()
	for i := range 25 {
		raw.Objects = append(raw.Objects, Object{fmt.Sprintf("0-%d:96.7.9", i%8), []string{"00007"}})
	}
	tel := raw.Encode()
	b.SetBytes(int64(len(tel)))
	for b.Loop() {
		if _, err := Decode(tel, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	decode := b.Elapsed()
	sum, start := uint16(0), time.Now()
	for range b.N {
		sum += Checksum(tel)
	}
	b.ReportMetric(float64(decode)/float64(time.Since(start)), "ratio")
	if sum == 1 {
		b.Log("keeps the yardstick alive")
	}
}
