// Package guest is the way from a driver's wallet to a host's gateway: the
// link that a QR code carries, and the guest door that the link opens.
//
// The door is a listener of its own, off until the host enables hosting. It
// speaks TLS 1.3 under a key that changes every day and is known only by the
// hash in the link: whoever scanned today's QR code talks to this gateway and
// to nobody else on the Wi-Fi. It needs no certificate authority, no name and
// no internet. At most 8 wallets are connected at once; every message has a
// limit, those of a session their exact size.
//
// Through the door go the messages of package privacy/session, which are
// signed besides, and a few that only concern the visit: the documents behind
// an offer (Welcome), what the driver needs (Need), sealed bytes that the host
// forwards for a wallet without network (Carry, Carried), where things stand
// (Notice), the driver's wish to stop (Stop), and what the session could give to
// the grid, for the driver to sign (Flex, FlexOK).
//
// The door learns nothing about the wallet but its address on the host's own
// network; nothing of it is logged. It does not protect against what people on
// site can see, and it does not limit what a wallet asks to be carried beyond
// size and number: the host's onion lane does.
//
// Host: NewDoor, Serve, Link. Wallet: ParseLink, Dial. Both then use
// Conn.Send and Conn.Receive.
//
// Source: doc/design.md, ev design 4.3, privacy design 4.3.
package guest
