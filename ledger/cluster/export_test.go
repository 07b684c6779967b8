package cluster

// Kill stops a member as the end of its process would: it hands nothing over.
func (n *Node) Kill() error { return n.shut() }

// Snapshot makes raft forget what a member that is away could have caught up
// with.
func (n *Node) Snapshot() error {
	r := n.raft.Load()
	rc := r.ReloadableConfig()
	rc.TrailingLogs = 0
	if err := r.ReloadConfig(rc); err != nil {
		return err
	}
	return r.Snapshot().Error()
}

// ParseProposal reads a proposal and writes it again.
func ParseProposal(b []byte) (again []byte, err error) {
	p, err := parseProposal(b)
	if err != nil {
		return nil, err
	}
	return p.encode(), nil
}

// ParseStanding reads an answer and writes it again.
func ParseStanding(b []byte) (again []byte, err error) {
	s, err := parseStanding(b)
	if err != nil {
		return nil, err
	}
	return s.encode(), nil
}

// ReadPart reads one part of an answer to a fetch.
var ReadPart = readPart
