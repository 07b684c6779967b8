package ledger

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Limits of a policy file.
const (
	maxPolicy      = 64 << 10 // bytes
	maxPolicyNames = 256      // witnesses and groups
)

// Policy says which log is meant and which witnesses make a checkpoint final.
// Its text form is read by ParsePolicy:
//
//	log <verifier key> [url]
//	witness <name> <verifier key> [url]
//	group <name> <k>|all|any <member>...
//	quorum <name>|none
//
// Lines may be blank or start with #. Members are names above their group.
type Policy struct {
	Log       VerifierKey
	LogURL    string
	Witnesses []Witness
	Groups    []Group
	Quorum    string // name of a witness or group, "none" if the log alone suffices
	// Shards are the other logs of the same ledger, under the same key:
	// checkpoints of theirs are opened too. The text form leaves them out.
	Shards []LaterLog
}

// LaterLog is a log in which a ledger goes on.
type LaterLog struct {
	Origin string
	Base   uint64 // entries of all logs before it
}

// Witness is a cosigner that the policy knows.
type Witness struct {
	Name string // in this policy
	Key  VerifierKey
	URL  string
}

// Group holds if K of its members do.
type Group struct {
	Name    string
	K       int
	Members []string
}

// PolicyError names the line of a policy file that is wrong.
type PolicyError struct {
	Line int
	Text string
}

func (e *PolicyError) Error() string { return fmt.Sprintf("policy line %d: %s", e.Line, e.Text) }

// Is makes errors.Is(err, ErrMalformed) true.
func (e *PolicyError) Is(target error) bool { return target == ErrMalformed }

// ParsePolicy reads a policy file. It returns a *PolicyError for the first line
// that is wrong.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > maxPolicy {
		return nil, &PolicyError{0, fmt.Sprintf("file has %d bytes, the most is %d", len(text), maxPolicy)}
	}
	p := &Policy{}
	hasLog := false
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		var err error
		switch {
		case p.Quorum != "":
			err = fmt.Errorf("nothing may follow the quorum line")
		case f[0] == "log" && !hasLog:
			hasLog = true
			err = p.parseLog(f[1:])
		case f[0] == "witness":
			err = p.parseWitness(f[1:])
		case f[0] == "group":
			err = p.parseGroup(f[1:])
		case f[0] == "quorum":
			err = p.parseQuorum(f[1:])
		default:
			err = fmt.Errorf("%q is not expected, want one log, then witness, group and one quorum line", f[0])
		}
		if err != nil {
			return nil, &PolicyError{i + 1, err.Error()}
		}
	}
	if !hasLog || p.Quorum == "" {
		return nil, &PolicyError{len(lines), "a log and a quorum line are missing"}
	}
	return p, nil
}

func (p *Policy) parseLog(f []string) error {
	if len(f) < 1 || len(f) > 2 {
		return fmt.Errorf("want: log <verifier key> [url]")
	}
	k, err := ParseVerifierKey(f[0])
	if err != nil {
		return err
	}
	if k.Cosigns() {
		return fmt.Errorf("%q is the key of a witness, not of a log", k.Name())
	}
	p.Log = k
	if len(f) == 2 {
		p.LogURL = f[1]
	}
	return nil
}

// claim checks a new name of a witness or group.
func (p *Policy) claim(name string) error {
	switch {
	case name == "none":
		return fmt.Errorf("the name none is taken")
	case p.known(name):
		return fmt.Errorf("the name %q is used twice", name)
	case len(p.Witnesses)+len(p.Groups) >= maxPolicyNames:
		return fmt.Errorf("more than %d witnesses and groups", maxPolicyNames)
	}
	return nil
}

func (p *Policy) known(name string) bool {
	return slices.ContainsFunc(p.Witnesses, func(w Witness) bool { return w.Name == name }) ||
		slices.ContainsFunc(p.Groups, func(g Group) bool { return g.Name == name })
}

func (p *Policy) parseWitness(f []string) error {
	if len(f) < 2 || len(f) > 3 {
		return fmt.Errorf("want: witness <name> <verifier key> [url]")
	}
	k, err := ParseVerifierKey(f[1])
	if err != nil {
		return err
	}
	if !k.Cosigns() {
		return fmt.Errorf("%q is no key of a witness, whose type is 4", k.Name())
	}
	for _, w := range p.Witnesses {
		if w.Key.pub == k.pub { // one witness must not count twice
			return fmt.Errorf("witness %q has the same key", w.Name)
		}
	}
	w := Witness{Name: f[0], Key: k}
	if len(f) == 3 {
		w.URL = f[2]
	}
	if err := p.claim(w.Name); err != nil {
		return err
	}
	p.Witnesses = append(p.Witnesses, w)
	return nil
}

func (p *Policy) parseGroup(f []string) error {
	if len(f) < 3 {
		return fmt.Errorf("want: group <name> <k>|all|any <member>...")
	}
	g := Group{Name: f[0], Members: f[2:]}
	for i, m := range g.Members {
		if !p.known(m) {
			return fmt.Errorf("member %q is not defined above", m)
		}
		if slices.Contains(g.Members[:i], m) {
			return fmt.Errorf("member %q is listed twice", m)
		}
	}
	switch f[1] {
	case "all":
		g.K = len(g.Members)
	case "any":
		g.K = 1
	default:
		k, err := strconv.Atoi(f[1])
		if err != nil || k < 1 || k > len(g.Members) {
			return fmt.Errorf("%q of %d members: want a number from 1, all or any", f[1], len(g.Members))
		}
		g.K = k
	}
	if err := p.claim(g.Name); err != nil {
		return err
	}
	p.Groups = append(p.Groups, g)
	return nil
}

func (p *Policy) parseQuorum(f []string) error {
	if len(f) != 1 || (f[0] != "none" && !p.known(f[0])) {
		return fmt.Errorf("want: quorum <name of a witness or group above>, or quorum none")
	}
	p.Quorum = f[0]
	return nil
}

// String writes the policy in the form that ParsePolicy reads, the same bytes
// for the same policy.
func (p *Policy) String() string {
	var b strings.Builder
	line := func(words ...string) {
		b.WriteString(strings.TrimRight(strings.Join(words, " "), " ") + "\n")
	}
	line("log", p.Log.String(), p.LogURL)
	for _, w := range p.Witnesses {
		line("witness", w.Name, w.Key.String(), w.URL)
	}
	for _, g := range p.Groups {
		line(append([]string{"group", g.Name, strconv.Itoa(g.K)}, g.Members...)...)
	}
	line("quorum", p.Quorum)
	return b.String()
}

// Keys lists the log's key, that key under the origins of Shards, and then the
// witnesses' in the order of the policy.
func (p *Policy) Keys() []VerifierKey {
	keys := []VerifierKey{p.Log}
	for _, l := range p.Shards {
		keys = append(keys, LogKey(l.Origin, p.Log.pub))
	}
	for _, w := range p.Witnesses {
		keys = append(keys, w.Key)
	}
	return keys
}

// Final reports whether the witnesses with these names make the quorum.
func (p *Policy) Final(cosigners []string) bool {
	holds := map[string]bool{"none": true}
	for _, name := range cosigners {
		holds[name] = true
	}
	for _, g := range p.Groups { // members stand above their group
		n := 0
		for _, m := range g.Members {
			if holds[m] {
				n++
			}
		}
		holds[g.Name] = n >= g.K
	}
	return holds[p.Quorum]
}

// Open verifies a checkpoint note under the policy: the log must have signed
// it, its origin must be the log's name or one of Shards, and cosigners names the witnesses
// whose signatures are there. Whether they suffice, Final tells.
func (p *Policy) Open(msg []byte) (c Checkpoint, cosigners []string, err error) {
	c, n, err := OpenCheckpoint(msg, p.Keys()...)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if _, ok := p.Base(c.Origin); !ok {
		return Checkpoint{}, nil, refuse(ErrSignature, "checkpoint is of the log %q, the policy is for %q", c.Origin, p.Log.Name())
	}
	signed := func(k VerifierKey) bool {
		return slices.ContainsFunc(n.Sigs, func(s note.Signature) bool { return s.Name == k.Name() && s.Hash == k.KeyHash() })
	}
	if !signed(LogKey(c.Origin, p.Log.pub)) {
		return Checkpoint{}, nil, refuse(ErrSignature, "the log has not signed the checkpoint")
	}
	for _, w := range p.Witnesses {
		if signed(w.Key) {
			cosigners = append(cosigners, w.Name)
		}
	}
	return c, cosigners, nil
}

// Base is how many entries the logs before the one of this origin have; ok says
// whether it is a log of the policy.
func (p *Policy) Base(origin string) (base uint64, ok bool) {
	if origin == p.Log.Name() {
		return 0, true
	}
	i := slices.IndexFunc(p.Shards, func(l LaterLog) bool { return l.Origin == origin })
	if i < 0 {
		return 0, false
	}
	return p.Shards[i].Base, true
}

// OpenFinal is Open for a checkpoint that must have the quorum. It returns
// ErrSignature if it has not.
func (p *Policy) OpenFinal(msg []byte) (Checkpoint, error) {
	c, cosigners, err := p.Open(msg)
	if err == nil && !p.Final(cosigners) {
		err = refuse(ErrSignature, "checkpoint of size %d has %d of %d witnesses, not the quorum", c.Size, len(cosigners), len(p.Witnesses))
	}
	return c, err
}

// As is the same policy for another log with the same key, such as the one that
// goes on after this one was sealed. The URL of the log is left out.
func (p *Policy) As(origin string) *Policy {
	q := *p
	q.Log, q.LogURL, q.Shards = LogKey(origin, p.Log.pub), "", nil
	return &q
}

// DefaultQuorum is how many of n utilities must cosign: with f = (n-1)/3 of them
// false, two quorums share an honest one. Source: design/ledger.md, 4.9.
func DefaultQuorum(n int) int {
	f := (n - 1) / 3
	return (n+f)/2 + 1
}

// NewPolicy is the policy of a log whose checkpoints are final with the default
// quorum of its utilities' verifiers.
func NewPolicy(log VerifierKey, witnesses ...Witness) *Policy {
	p := &Policy{Log: log, Witnesses: witnesses, Quorum: "none"}
	if len(witnesses) > 0 {
		g := Group{Name: "verifiers", K: DefaultQuorum(len(witnesses))}
		for _, w := range witnesses {
			g.Members = append(g.Members, w.Name)
		}
		p.Groups, p.Quorum = []Group{g}, g.Name
	}
	return p
}
