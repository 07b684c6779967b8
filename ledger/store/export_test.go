package store

import "gridveil/ledger"

// PruneEarly deletes journal segments as early as in a log of years.
func PruneEarly(s *Store) {
	s.take.Lock()
	defer s.take.Unlock()
	s.journal.keep = 0
}

// DatabaseAlone is how many entries Badger by itself finds in a directory, as a
// store without journal and head file would.
func DatabaseAlone(dir string, o Options) (entries uint64, err error) {
	if o, err = o.withDefaults(); err != nil {
		return 0, err
	}
	s := &Store{dir: dir, opt: o}
	if s.db, err = openBadger(dir, o); err != nil {
		return 0, err
	}
	entries, err = s.extent()
	closed := s.db.Close()
	if err == nil {
		err = closed
	}
	return entries, err
}

// Broken are stores whose recovery lacks something, for the tests of the tests.
var Broken = map[string]func(*recovery) []func() error{
	"believes the database": func(r *recovery) []func() error {
		return []func() error{r.believe, r.extend, r.trim, r.mendJournal, r.finish}
	},
	"forgets what was signed": func(r *recovery) []func() error {
		return []func() error{r.mend, r.extend, r.trim, r.mendJournal, r.forget, r.finish}
	},
	"drops what it cannot mend": func(r *recovery) []func() error {
		return []func() error{r.giveUp, r.extend, r.trim, r.mendJournal, r.finish}
	},
}

// OpenBroken is Open with such a recovery.
func OpenBroken(how string) func(string, ledger.Machine, Options) (*Store, error) {
	return func(dir string, m ledger.Machine, o Options) (*Store, error) {
		o, err := o.withDefaults()
		if err != nil {
			return nil, err
		}
		s := &Store{dir: dir, opt: o, machine: m, blank: m.Snapshot()}
		r, err := s.openFiles()
		if err == nil {
			err = r.settle(Broken[how](r)...)
		}
		if err != nil {
			s.closeFiles()
			return nil, err
		}
		return s, nil
	}
}

// believe takes the end of the database for the end of the log.
func (r *recovery) believe() (err error) {
	if r.slot.size, err = r.extent(); err != nil {
		return err
	}
	if r.edge, err = r.edgeOf(r.slot.size); err != nil {
		return err
	}
	r.slot.root, r.places = r.edge.Root(), nil
	if r.slot.signed.size > r.slot.size {
		return r.forget()
	}
	return nil
}

func (r *recovery) forget() error {
	r.slot.signed = signed{root: ledger.EmptyRoot()}
	return nil
}

func (r *recovery) giveUp() error {
	if r.mend() == nil {
		return nil
	}
	return r.believe()
}
