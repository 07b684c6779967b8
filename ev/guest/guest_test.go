package guest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"gridveil/ev/pool"
	"gridveil/privacy"
	"gridveil/privacy/session"
)

// clock stands still unless moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) After(time.Duration) <-chan time.Time { return nil }

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// echo sends every message back.
func echo(ctx context.Context, c *Conn) {
	for {
		m, err := c.Receive(ctx)
		if err != nil {
			return
		}
		if c.Send(ctx, m) != nil {
			return
		}
	}
}

// house is a door on loopback that ends with the test.
type house struct {
	t    *testing.T
	door *Door
	time *clock
	addr string
}

func newHouse(t *testing.T, serve func(context.Context, *Conn)) *house {
	t.Helper()
	h := &house{t: t, time: &clock{now: time.Date(2026, 3, 1, 23, 0, 0, 0, time.UTC)}}
	var err error
	if h.door, err = NewDoor(Config{Seed: [32]byte{7}, Guest: serve, Clock: h.time}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.door.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *house) link() Link {
	h.t.Helper()
	_, port, _ := net.SplitHostPort(h.addr)
	n, _ := strconv.Atoi(port)
	l, err := h.door.Link("127.0.0.1", 1, uint16(n))
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (h *house) dial(l Link) *Conn {
	h.t.Helper()
	c, err := Dial(limit(h.t), l)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(c.Close)
	return c
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestWalletAndGatewayTalkThroughTheDoor(t *testing.T) {
	h := newHouse(t, echo)
	c := h.dial(h.link())
	tick := make([]byte, session.TickSize)
	tick[0] = byte(privacy.KindTick)
	for _, m := range []Message{SessionMessage(tick), {Type: Stop}, Need{Want: 20_000_000, Departure: 1}.Message(), Note{State: 4, Text: "ok"}.Message()} {
		if err := c.Send(limit(t), m); err != nil {
			t.Fatal(err)
		}
		back, err := c.Receive(limit(t))
		if err != nil || !bytes.Equal(back.Bytes(), m.Bytes()) {
			t.Errorf("type %d: got %v %v", m.Type, back, err)
		}
	}
}

func TestOnlyTheKeyInTheLinkIsAccepted(t *testing.T) {
	h := newHouse(t, echo)
	l := h.link()
	l.SPKI[5] ^= 1
	if _, err := Dial(limit(t), l); !errors.Is(err, ErrPin) {
		t.Errorf("other key: got %v, want ErrPin", err)
	}
	other := newHouse(t, echo)
	other.door.cfg.Seed[0]++
	other.door.keys = nil
	impostor := other.link()
	impostor.SPKI = h.link().SPKI
	if _, err := Dial(limit(t), impostor); !errors.Is(err, ErrPin) {
		t.Errorf("another gateway: got %v, want ErrPin", err)
	}
}

func TestKeyChangesDailyAndYesterdaysWalletsMayReturn(t *testing.T) {
	h := newHouse(t, echo)
	yesterday := h.link()
	h.time.move(2 * time.Hour)
	today := h.link()
	if today.SPKI == yesterday.SPKI {
		t.Fatal("the key did not change at midnight")
	}
	h.dial(yesterday)
	h.dial(today)
	h.time.move(24 * time.Hour)
	if _, err := Dial(limit(t), yesterday); !errors.Is(err, ErrPin) {
		t.Errorf("link of the day before yesterday: got %v, want ErrPin", err)
	}
}

func TestKeySurvivesARestart(t *testing.T) {
	if newHouse(t, echo).link().SPKI != newHouse(t, echo).link().SPKI {
		t.Error("the same seed and day gave two keys: a running session could not come back")
	}
}

func TestNinthGuestIsSentAway(t *testing.T) {
	h := newHouse(t, echo)
	for range maxGuests {
		h.dial(h.link())
	}
	_, err := Dial(limit(t), h.link())
	if err == nil || !strings.Contains(err.Error(), "too many guests") {
		t.Errorf("guest 9: got %v", err)
	}
}

func TestDoorSpeaksTLS13ToWalletsOnly(t *testing.T) {
	h := newHouse(t, echo)
	old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
	if c, err := tls.Dial("tcp", h.addr, old); err == nil {
		c.Close()
		t.Error("TLS 1.2 was accepted")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := client.Get("https://" + h.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("other path: got %d, want 404", resp.StatusCode)
	}
	header := http.Header{"Origin": {"http://evil.example"}}
	if _, _, err := websocket.Dial(limit(t), "wss://"+h.addr+path, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header}); err == nil {
		t.Error("a page of another origin got in")
	}
}

func TestBadMessageEndsTheConnection(t *testing.T) {
	refused := make(chan error, 1)
	h := newHouse(t, func(ctx context.Context, c *Conn) {
		_, err := c.Receive(ctx)
		refused <- err
	})
	for _, b := range [][]byte{{}, {99}, {byte(Stop), 1}, append([]byte{byte(Session), byte(privacy.KindTick)}, make([]byte, session.TickSize)...)} {
		c := h.dial(h.link())
		if err := c.ws.Write(limit(t), websocket.MessageBinary, b); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !errors.Is(err, ErrMessage) {
			t.Errorf("%v: got %v, want ErrMessage", b, err)
		}
		if _, err := c.Receive(limit(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("%v: got %v, want ErrClosed", b, err)
		}
	}
	c := h.dial(h.link())
	if err := c.Send(limit(t), Message{Type: Stop, Body: []byte{1}}); !errors.Is(err, ErrMessage) {
		t.Errorf("sending a bad message: got %v", err)
	}
}

func TestServeEndsWithAGuestInside(t *testing.T) {
	inside := make(chan struct{})
	h := newHouse(t, func(ctx context.Context, c *Conn) {
		close(inside)
		echo(ctx, c)
	})
	h.dial(h.link())
	<-inside // the cleanup of newHouse waits for Serve
}

func TestLinkRoundTrip(t *testing.T) {
	l := Link{Gateway: "192.168.178.20", EVSE: 1, Port: 8443, SPKI: [32]byte{1, 2, 3}}
	text := l.String()
	if !strings.HasPrefix(text, "http://192.168.178.20:8480/g/") || len(text) > 84 {
		t.Errorf("link: got %s (%d characters)", text, len(text))
	}
	for _, l := range []Link{l, {Gateway: "[fd00::20]", EVSE: 2, Port: 1}, {Gateway: "gw.local:8081", EVSE: 255, Port: 65535}} {
		for _, text := range []string{l.String(), l.PayURL("http://localhost:8470"), " " + l.String() + "\n"} {
			got, err := ParseLink(text)
			if err != nil || got != l {
				t.Errorf("%s: got %+v %v, want %+v", text, got, err, l)
			}
		}
	}
	if d := (Link{Gateway: "[fd00::20]", Port: 8443}).Door(); d != "[fd00::20]:8443" {
		t.Errorf("Door: got %s", d)
	}
}

func TestBadLinksAreRefusedWithAReason(t *testing.T) {
	good := Link{Gateway: "10.0.0.1", EVSE: 1, Port: 8443}.String()
	for name, text := range map[string]string{
		"empty": "", "https": strings.Replace(good, "http", "https", 1), "one character less": good[:len(good)-1],
		"padding": good + "=", "query": good + "?x", "fragment": good + "#x", "user": strings.Replace(good, "//", "//u@", 1),
		"no port": strings.Replace(good, ":8480", "", 1), "port 0": strings.Replace(good, ":8480", ":0", 1),
		"EVSE 0": Link{Gateway: "10.0.0.1", Port: 1}.String(), "door port 0": Link{Gateway: "10.0.0.1", EVSE: 1}.String(),
		"version": strings.Replace(good, "/g/AQ", "/g/Ag", 1), "long": good + strings.Repeat("A", 300),
		"nested": "http://x/pay?l=http%3A%2F%2Fx%2Fpay%3Fl%3Dx", "page": "http://10.0.0.1:8480/",
	} {
		if l, err := ParseLink(text); !errors.Is(err, ErrLink) {
			t.Errorf("%s: got %+v %v, want ErrLink", name, l, err)
		}
	}
}

func TestQRCodeOfALinkHas37Modules(t *testing.T) {
	text := Link{Gateway: "192.168.178.20", EVSE: 1, Port: 8443, SPKI: [32]byte{9}}.String()
	c, err := encodeQR(text)
	if err != nil {
		t.Fatal(err)
	}
	if c.Size != 37 {
		t.Errorf("modules: got %d, want 37", c.Size)
	}
	svg, err := QRSVG(text)
	if err != nil || !bytes.Contains(svg, []byte(`viewBox="0 0 45 45"`)) {
		t.Errorf("SVG: %v %.80s", err, svg)
	}
	dark := 0
	for y := range c.Size {
		for x := range c.Size {
			if c.Black(x, y) {
				dark++
			}
		}
	}
	drawn := 0
	for _, run := range strings.Split(string(svg), "h")[2:] {
		var n int
		if _, err := fmt.Sscanf(run, "%dv1", &n); err == nil {
			drawn += n
		}
	}
	if drawn != dark {
		t.Errorf("SVG draws %d dark modules, the code has %d", drawn, dark)
	}
	for _, text := range []string{"", strings.Repeat("x", maxQRText+1)} {
		if _, err := QRSVG(text); err == nil {
			t.Errorf("QR of %d characters succeeded", len(text))
		}
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	w := Welcome{Terms: bytes.Repeat([]byte{1}, 80), FeeSheet: bytes.Repeat([]byte{2}, 18), MeterSalt: [32]byte{3}, MeterKey: []byte("key"), EVSE: 1, Phases: 3}
	m, err := w.Message()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseWelcome(m.Body)
	if err != nil || !bytes.Equal(got.Terms, w.Terms) || !bytes.Equal(got.FeeSheet, w.FeeSheet) || got.MeterSalt != w.MeterSalt ||
		string(got.MeterKey) != "key" || got.EVSE != 1 || got.Phases != 3 {
		t.Errorf("welcome: got %+v %v", got, err)
	}
	p := Parcel{ID: 7, To: [16]byte{1}, Service: 3, Failed: true, Body: []byte("sealed")}
	if _, err := p.Message(Carry); !errors.Is(err, ErrMessage) {
		t.Error("a wallet cannot report a failure")
	}
	pm, err := p.Message(Carried)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ParseParcel(pm); err != nil || back.ID != 7 || !back.Failed || string(back.Body) != "sealed" {
		t.Errorf("parcel: got %+v %v", back, err)
	}
	note := Note{State: 3, PowerW: -7360, Text: strings.Repeat("ä", 200)}
	back, err := ParseNote(note.Message().Body)
	if err != nil || back.PowerW != -7360 || len(back.Text) != 254 {
		t.Errorf("note: got %+v %v", back, err)
	}
	signed := FlexMessage(&pool.Flex{DriverSig: [64]byte{1}})
	if _, err := ParseFlex(signed.Body); !errors.Is(err, ErrMessage) {
		t.Errorf("an offer that is signed already: %v", err)
	}
	if _, err := ParseFlex(FlexMessage(&pool.Flex{From: 1}).Body); !errors.Is(err, ErrMessage) {
		t.Errorf("an offer beside the quarters of an hour: %v", err)
	}
	if _, err := ParseAssent((Assent{From: -1}).Message().Body); !errors.Is(err, ErrMessage) {
		t.Errorf("an assent to no time: %v", err)
	}
	for _, n := range []Need{{Want: -1}, {NotBefore: -1}, {NotBefore: 1 << 60}} {
		if _, err := ParseNeed(n.Message().Body); !errors.Is(err, ErrMessage) {
			t.Errorf("%+v: got %v, want ErrMessage", n, err)
		}
	}
	odd := Need{}.Message().Body
	odd[len(odd)-1] = 2
	if _, err := ParseNeed(odd); !errors.Is(err, ErrMessage) {
		t.Errorf("neither on call nor not: got %v, want ErrMessage", err)
	}
	whole := Need{Want: 1, Floor: 1, Departure: 3, NotBefore: 2, OnCall: true}
	if back, err := ParseNeed(whole.Message().Body); err != nil || back != whole {
		t.Errorf("need: got %+v %v", back, err)
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add(Link{Gateway: "192.168.178.20", EVSE: 1, Port: 8443}.String())
	f.Add("http://[::1]:8480/g/AQEg-wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLink(text)
		if err != nil {
			return
		}
		again, err := ParseLink(l.String())
		if err != nil || again != l {
			t.Errorf("%q gave %+v, which reads as %+v, %v", text, l, again, err)
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	f.Add(Message{Type: Stop}.Bytes())
	f.Add(Note{Text: "x"}.Message().Bytes())
	f.Add(Need{Want: 5}.Message().Bytes())
	w, _ := Welcome{Terms: make([]byte, 80), FeeSheet: make([]byte, 18), MeterKey: []byte("k")}.Message()
	f.Add(w.Bytes())
	p, _ := Parcel{Body: []byte("b")}.Message(Carry)
	f.Add(p.Bytes())
	f.Add(FlexMessage(&pool.Flex{Open: [32]byte{1}}).Bytes())
	f.Add(Assent{From: 900_000, Sig: [64]byte{2}}.Message().Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.Bytes(), b) {
			t.Fatalf("message %x encodes as %x", b, m.Bytes())
		}
		var again Message
		switch m.Type {
		case Hello:
			w, err := ParseWelcome(m.Body)
			if err != nil {
				return
			}
			again, err = w.Message()
			if err != nil {
				t.Fatal(err)
			}
		case Wish:
			n, err := ParseNeed(m.Body)
			if err != nil {
				return
			}
			again = n.Message()
		case Carry, Carried:
			p, err := ParseParcel(m)
			if err != nil {
				return
			}
			again, err = p.Message(m.Type)
			if err != nil {
				t.Fatal(err)
			}
		case Flex:
			x, err := ParseFlex(m.Body)
			if err != nil {
				return
			}
			again = FlexMessage(x)
		case FlexOK:
			a, err := ParseAssent(m.Body)
			if err != nil {
				return
			}
			again = a.Message()
		case Notice:
			n, err := ParseNote(m.Body)
			if err != nil {
				return
			}
			again = n.Message()
		default:
			return
		}
		if !bytes.Equal(again.Bytes(), b) {
			t.Errorf("%x encodes as %x", b, again.Bytes())
		}
	})
}
