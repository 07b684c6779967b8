package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"testing"

	"gridveil/mesh/member"
)

func FuzzReadSized(f *testing.F) {
	f.Add([]byte{0, 2, 7, 7})
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := readSized(bytes.NewReader(raw))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeSized(&again, b); err != nil || len(b) > member.MaxHello || !bytes.HasPrefix(raw, again.Bytes()) {
			t.Errorf("read then written: %d bytes that are no beginning of what came, %v", again.Len(), err)
		}
	})
}

func FuzzSplitBundle(f *testing.F) {
	f.Add(joinBundle([]byte("version = 1"), []byte("gridveil-root")))
	f.Add([]byte{0, 9, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		raw, sig, err := splitBundle(body)
		if err == nil && !bytes.Equal(joinBundle(raw, sig), body) {
			t.Error("split then joined gives other bytes")
		}
	})
}

func FuzzReadDoorName(f *testing.F) {
	f.Add(append([]byte{4}, "tree"...))
	f.Add([]byte{65})
	f.Fuzz(func(t *testing.T, raw []byte) {
		name, err := readDoorName(bytes.NewReader(raw))
		if err == nil && (len(name) == 0 || len(name) > maxDoorName || !bytes.HasPrefix(raw, append([]byte{byte(len(name))}, name...))) {
			t.Errorf("read %q from %x", name, raw)
		}
	})
}

// renewed counts the renewals that were let through.
type renewed struct{ n int }

func (r *renewed) Enrol(context.Context, member.Request, member.Channel) (member.Answer, error) {
	return member.Answer{}, nil
}

func (r *renewed) Renew(context.Context, Member, []byte) ([][]byte, error) {
	r.n++
	return [][]byte{{1}}, nil
}

func FuzzServeRenew(f *testing.F) {
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	good, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		f.Fatal(err)
	}
	desk := &renewed{}
	h := &Host{c: Config{Enrol: desk}}
	f.Add(good)
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := desk.n
		_, err := h.serveRenew(t.Context(), Member{Key: member.Key(pub)}, raw)
		passed := desk.n > before
		if passed != (err == nil) || bytes.Equal(raw, good) && !passed {
			t.Errorf("passed on: %t, %v", passed, err)
		}
		if q, err := x509.ParseCertificateRequest(raw); passed && (err != nil || q.CheckSignature() != nil) {
			t.Error("a request that its key did not sign was passed on")
		}
	})
}

func FuzzParseAddresses(f *testing.F) {
	f.Add(encodeAddresses([]string{"/ip4/192.0.2.1/tcp/4100", "/ip6/2001:db8::1/tcp/4100"}))
	f.Add([]byte{1, 200, '/'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		addrs, err := parseAddresses(raw)
		if err != nil {
			return
		}
		var texts []string
		for _, a := range addrs {
			texts = append(texts, a.String())
			if _, _, ok := tcpOf(a); ok && len(a) != 2 {
				t.Error("more than an address and a port")
			}
		}
		again, err := parseAddresses(encodeAddresses(texts))
		if err != nil || len(again) != len(addrs) {
			t.Fatalf("%d addresses, again %d, %v", len(addrs), len(again), err)
		}
	})
}

func FuzzParseDialBack(f *testing.F) {
	f.Add(encodeDialBack(netip.MustParseAddr("192.0.2.1"), []Reach{ReachOK, ReachForeign}))
	f.Add(encodeDialBack(netip.MustParseAddr("2001:db8::1"), nil))
	f.Add([]byte{4, 1, 2, 3, 4, 1, 9})
	f.Fuzz(func(t *testing.T, raw []byte) {
		seen, found, err := parseDialBack(raw)
		if err == nil && !bytes.Equal(encodeDialBack(seen, found), raw) {
			t.Error("read then written gives other bytes")
		}
	})
}
