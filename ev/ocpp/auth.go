package ocpp

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// Standing of a station: nothing but an accepted one may charge.
type Standing uint8

// A station is pending until the owner clicks accept or refuse.
const (
	Pending  Standing = 1
	Accepted Standing = 2
	Refused  Standing = 3
)

// String is the word that pages and logs show.
func (s Standing) String() string {
	switch s {
	case Pending:
		return "pending"
	case Accepted:
		return "accepted"
	case Refused:
		return "refused"
	}
	return "unknown"
}

// Record is what the store keeps of a station. Passwords are kept as salted
// SHA-256 only: they are 160 random bits of ours, so a slow hash adds nothing.
type Record struct {
	ID       string
	Standing Standing
	Salt     [16]byte
	Hash     [32]byte // of salt || 20 password bytes; all zero: no password was ever issued
	Vendor   string   // as the last BootNotification said
	Model    string
	Phases   uint8 // wired phases, 1 or 3; 0 means 3
}

const (
	passwordLen  = 20 // bytes; 40 hex characters is the longest AuthorizationKey of OCPP 1.6
	maxStationID = 48 // characters, OCPP 2.0.1 part 4, 3.1.1
)

// newPassword draws a password, and puts its salted hash into r. The result is
// what the owner types into the wallbox: 40 hex characters, shown once.
func (r *Record) newPassword() string {
	var pw [passwordLen]byte
	rand.Read(pw[:]) // never fails (crypto/rand)
	rand.Read(r.Salt[:])
	r.Hash = hashPassword(r.Salt, pw[:])
	return hex.EncodeToString(pw[:])
}

func hashPassword(salt [16]byte, pw []byte) [32]byte {
	return sha256.Sum256(append(salt[:], pw...))
}

// checkPassword compares what a station sent. Stations send the 40 hex
// characters as text, in either case, or the 20 bytes that they stand for.
func (r *Record) checkPassword(sent []byte) bool {
	if r.Hash == [32]byte{} {
		return false
	}
	pw := sent
	if len(sent) == 2*passwordLen {
		raw, err := hex.DecodeString(string(sent))
		if err != nil {
			return false
		}
		pw = raw
	}
	got := hashPassword(r.Salt, pw)
	return subtle.ConstantTimeCompare(got[:], r.Hash[:]) == 1
}

// stationID takes the station id from the request path, "" if there is none
// that OCPP allows. One trailing slash is forgiven: some wallboxes add it.
func stationID(u *url.URL) string {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/ocpp/")
	if !ok {
		return ""
	}
	id, err := url.PathUnescape(strings.TrimSuffix(rest, "/"))
	if err != nil || !validID(id) {
		return ""
	}
	return id
}

func validID(id string) bool {
	if id == "" || len(id) > maxStationID {
		return false
	}
	for _, c := range []byte(id) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && !strings.ContainsRune("*-_=:+|@.", rune(c)) {
			return false
		}
	}
	return true
}

// basicPassword returns the password of a Basic header whose user is id. The
// id itself may hold ':', so the header is not split at the first one.
func basicPassword(h http.Header, id string) ([]byte, bool) {
	scheme, value, ok := strings.Cut(h.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return nil, false
	}
	pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return nil, false
	}
	pw, ok := strings.CutPrefix(string(pair), id+":")
	return []byte(pw), ok
}

// remoteIP is the address of a socket; the zero Addr if it has none.
func remoteIP(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// inHouse reports whether an address belongs to the house's own network, where
// profile 1 may run without TLS.
func inHouse(a netip.Addr) bool {
	return a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast()
}
