// Package lane carries requests and replies between two neighbours over kept streams, one per lane.
//
// It guarantees that a request on a lower lane number overtakes everything that waits on higher ones (an alarm does
// not queue behind reports), that waiting bulk still gets at least a tenth of the bytes, and that a call ends with the
// answer or with an error that says whether the request left: [ErrUnsent] or [ErrUnanswered]. It does not know who the
// neighbour is, which services exist, or what the bytes mean; package mesh decides that.
//
// frame.go and pace.go are pure. lane.go is the shell: [Link.Serve] owns the goroutines and waits for them.
// Start with [New], then [Link.Serve] and [Link.Call]. Source: doc/design.md, lanes.
package lane
