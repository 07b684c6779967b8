// Package mesh is a node's end of the network: real connections to members that a bundle admits, requests between
// neighbours, and signed registers that spread by gossip. It carries sealed bytes and knows nothing of meters or money.
//
// A [Host] is made with [New], which dials nobody, and runs in [Host.Serve], which waits for nobody: with every remote
// down it succeeds, keeps redialling, and calls return [ErrOffline].
//
//	New -> Handle, Follow, Listener -> Serve -> Call, Publish, Dial
//
// What it guarantees:
//   - only holders of a certificate of the bundle get past hello, where the responder speaks first; a stranger reaches
//     hello and, on hosts with a [Registrar], enrolment, nothing else; a revoked member is gone within a minute;
//   - who may ask whom for what stands in one table (service.go), enforced on both sides;
//   - an alarm overtakes any backlog and bulk is never starved (package lane);
//   - a register is accepted only through the checks of package gossip, and is durable before anybody acts on it;
//   - a call ends with the answer or with an error that says what is known: nothing was done ([ErrOffline], [ErrBusy]),
//     or it may have been ([ErrUnacked]: send again under the same record id);
//   - no peer id and no address of a home enters an error or a log line.
//
// What it does not: hide who talks to whom. That is package mesh/onion, which stands on a Host. Package mesh/meshtest
// starts whole networks on loopback for tests.
//
// All protocol waits go through Config.Clock, which a demonstration runs fast; socket deadlines, dials and gossipsub's
// heartbeat are wall time.
//
// Locks: Host.trust (certificates, registers) and Host.mu (connections) are never held together; neither is held across
// I/O or while calling a handler. Goroutines belong to Serve, which waits for them. Source: doc/design.md.
package mesh
