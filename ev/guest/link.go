package guest

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"rsc.io/qr"
)

// ErrLink says that a text is not a guest link; the wrapping error says why.
var ErrLink = errors.New("not a guest link; scan the QR code on the host's Guest page again")

const (
	linkVersion = 1
	linkSize    = 1 + 1 + 2 + 32
	linkPath    = "/g/"
	maxLinkText = 256 // characters; a real link has about 80
	webPort     = 8480
	payPath     = "/pay"
)

// Link is what a guest's phone needs to find one EVSE of one gateway.
type Link struct {
	// Gateway is the host's address, with the port of its page if that is not
	// 8480: "192.168.178.20", "[fd00::20]", "gateway.local:8080".
	Gateway string
	EVSE    uint8    // from 1
	Port    uint16   // of the door
	SPKI    [32]byte // SHA-256 of the door's public key today
}

// String is the link as the QR code holds it:
// http://<gateway>:8480/g/<base64url of version, EVSE, port, hash>.
// The scheme is http because the page behind it is static and the same for
// everybody; what is worth protecting goes through the door.
func (l Link) String() string {
	b := make([]byte, 0, linkSize)
	b = append(b, linkVersion, l.EVSE)
	b = binary.BigEndian.AppendUint16(b, l.Port)
	b = append(b, l.SPKI[:]...)
	return "http://" + l.web() + linkPath + base64.RawURLEncoding.EncodeToString(b)
}

// web is Gateway with its port.
func (l Link) web() string {
	if _, _, err := net.SplitHostPort(l.Gateway); err == nil {
		return l.Gateway
	}
	return l.Gateway + ":" + strconv.Itoa(webPort)
}

// Door is the address to dial: host and port of the door.
func (l Link) Door() string {
	host, _, err := net.SplitHostPort(l.web())
	if err != nil {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(int(l.Port)))
}

// PayURL is the page of the wallet at base (for example http://localhost:8470)
// that opens this link.
func (l Link) PayURL(base string) string {
	return strings.TrimSuffix(base, "/") + payPath + "?l=" + url.QueryEscape(l.String())
}

// ParseLink reads a link as it was scanned or pasted, or the wallet URL around
// it. Errors wrap ErrLink.
func ParseLink(text string) (Link, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxLinkText {
		return Link{}, fmt.Errorf("%w (%d characters)", ErrLink, len(text))
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return Link{}, fmt.Errorf("%w (want http://…/g/…)", ErrLink)
	}
	if u.Path == payPath && u.Query().Get("l") != "" {
		inner := u.Query().Get("l")
		if strings.Contains(inner, payPath+"?") {
			return Link{}, fmt.Errorf("%w (a link inside a link)", ErrLink)
		}
		return ParseLink(inner)
	}
	code, ok := strings.CutPrefix(u.EscapedPath(), linkPath)
	if !ok || u.RawQuery != "" || u.ForceQuery {
		return Link{}, fmt.Errorf("%w (want http://…/g/…)", ErrLink)
	}
	l, err := parseCode(code)
	if err != nil {
		return Link{}, err
	}
	l.Gateway, err = gatewayOf(u)
	if err == nil && l.String() != text {
		err = fmt.Errorf("%w (not written the one way)", ErrLink)
	}
	return l, err
}

// gatewayOf takes the host of the URL, without the port if it is the usual one.
func gatewayOf(u *url.URL) (string, error) {
	host, port := u.Hostname(), u.Port()
	if host == "" || strings.ContainsAny(host, "%/ \"<>\\") {
		return "", fmt.Errorf("%w (no gateway address)", ErrLink)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", fmt.Errorf("%w (port of the gateway's page)", ErrLink)
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	if n == webPort {
		return host, nil
	}
	return host + ":" + port, nil
}

func parseCode(code string) (Link, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if err != nil || len(b) != linkSize {
		return Link{}, fmt.Errorf("%w (%d characters of code, want 48)", ErrLink, len(code))
	}
	if b[0] != linkVersion {
		return Link{}, fmt.Errorf("%w: version %d is newer than this wallet; update it", ErrLink, b[0])
	}
	l := Link{EVSE: b[1], Port: binary.BigEndian.Uint16(b[2:]), SPKI: [32]byte(b[4:])}
	if l.EVSE == 0 || l.Port == 0 {
		return Link{}, fmt.Errorf("%w (EVSE and port count from 1)", ErrLink)
	}
	return l, nil
}

const (
	quiet     = 4 // light modules around a code, ISO/IEC 18004
	maxQRText = 1200
)

// QRSVG draws text as a QR code in SVG, one path of dark modules, one user unit
// per module, with the quiet zone. It holds no text and no style besides fill. It fails for more
// than 1200 characters, which phones no longer read from a screen.
func QRSVG(text string) (svg []byte, err error) {
	c, err := encodeQR(text)
	if err != nil {
		return nil, err
	}
	n := c.Size + 2*quiet
	b := fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="QR code" shape-rendering="crispEdges">`+
		`<path fill="#fff" d="M0 0h%dv%dH0z"/><path fill="#000" d="`, n, n, n, n)
	for y := range c.Size {
		for x := 0; x < c.Size; x++ {
			run := 0
			for x+run < c.Size && c.Black(x+run, y) {
				run++
			}
			if run > 0 {
				b = fmt.Appendf(b, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
				x += run
			}
		}
	}
	return append(b, `"/></svg>`...), nil
}

func encodeQR(text string) (*qr.Code, error) {
	if text == "" || len(text) > maxQRText {
		return nil, fmt.Errorf("QR code of %d characters, want 1 to %d", len(text), maxQRText)
	}
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		return nil, fmt.Errorf("draw QR code: %w", err)
	}
	return c, nil
}
