// Package meshtest starts small real networks on loopback for tests: a founder with its bundle and CAs, substations,
// other backbone members, homes and wallets, each a real libp2p host, on one accelerated clock.
//
// Start with [Start]; it returns once everybody is connected, and the test's cleanup stops all. [Network.Add] puts in
// one more node, [Node.Stop] and [Node.Restart] take one out and back with its store. Nothing here is for production.
package meshtest
