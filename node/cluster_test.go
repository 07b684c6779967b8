package node

import (
	"strings"
	"testing"
	"time"

	"gridveil/ledger/cluster"
	"gridveil/node/site"
	"gridveil/node/web"
)

// three are the machines of a cluster as one of them sees them.
func three() ClusterStatus {
	return ClusterStatus{Leader: "aa", Term: 3, Members: []ClusterMember{
		{Key: "aa", Address: "a:1", Answers: true, Leads: true, Entries: 9},
		{Key: "bb", Address: "b:1", Answers: true, This: true, Entries: 9},
		{Key: "cc", Address: "c:1", Answers: true, Entries: 9},
	}}
}

func TestAClusterSaysInWordsHowItIs(t *testing.T) {
	ago := time.Now().Add(-time.Minute)
	for _, tc := range []struct {
		name, self string
		change     func(*ClusterStatus)
		next, row  string
		state      Health
	}{
		{"all is well", "bb", func(*ClusterStatus) {}, "", "a:1 leads.\nb:1 stands by, has everything.", Well},
		{"one lags", "bb", func(s *ClusterStatus) { s.Members[2].Behind = 4 }, "", "c:1 stands by, 4 behind.", Well},
		{"one is away", "bb", func(s *ClusterStatus) { s.Members[2].Answers, s.Members[2].Heard = false, &ago }, "Start the machine at c:1; with one more away nothing would be taken.", "c:1 does not answer; it did 1m0s ago.", Limited},
		{"one never came", "bb", func(s *ClusterStatus) { s.Members[2].Answers = false }, "Start the machine at c:1; with one more away nothing would be taken.", "never did since this machine started", Limited},
		{"two of five are away", "bb", func(s *ClusterStatus) {
			s.Members = append(s.Members, ClusterMember{Key: "dd", Address: "d:1"}, ClusterMember{Key: "ee", Address: "e:1"})
		}, "Start the machines at d:1 and e:1; with one more away nothing would be taken.", "c:1 stands by, has everything.", Limited},
		{"one of five is away", "bb", func(s *ClusterStatus) {
			s.Members = append(s.Members, ClusterMember{Key: "dd", Address: "d:1", Answers: true}, ClusterMember{Key: "ee", Address: "e:1"})
		}, "Start the machine at e:1; the service survives the loss of one more.", "d:1 stands by, has everything.", Limited},
		{"two are away", "bb", func(s *ClusterStatus) { s.Leader, s.Members[0].Answers, s.Members[2].Answers = "", false, false }, "1 of 3 machines answer", "", Sick},
		{"nobody leads", "bb", func(s *ClusterStatus) { s.Leader = "" }, "Nobody leads yet", "", Sick},
		{"a stranger", "dd", func(*ClusterStatus) {}, "This machine is no member.", "", Limited},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := three()
			tc.change(&s)
			for i := range s.Members {
				m := &s.Members[i]
				x := cluster.Standing{Answers: m.Answers, Leads: m.Leads, InStep: true}
				if m.Heard != nil {
					x.Heard = *m.Heard
				}
				m.Standing = site.MachineWords(x, m.Behind)
			}
			s.Next = s.advice(tc.self)
			f := judgeCluster(s)
			if f.State != tc.state || !strings.Contains(f.Next, tc.next) || !strings.Contains(f.Text, tc.row) {
				t.Errorf("got %s %q, next %q", f.State, f.Text, f.Next)
			}
		})
	}
}

func TestAMachineThatStandsBySaysWhereItIs(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name           string
		change         func(*ClusterStatus)
		inStep         bool
		took           time.Time
		standing, word string
		behind         string
	}{
		{"all is well", func(*ClusterStatus) {}, true, now, "ok", "has everything", "nothing"},
		{"nothing came for long, and nothing is lacking", func(*ClusterStatus) {}, true, time.Time{}, "ok", "has everything", "nothing"},
		{"in traffic", func(s *ClusterStatus) { s.Members[1].Behind = 40 }, true, now.Add(-stuckAfter), "ok", "follows", "40 entries and changes"},
		{"another one lags", func(s *ClusterStatus) { s.Members[2].Behind = 40 }, true, now, "ok", "has everything", "nothing"},
		{"it lacks something and takes nothing", func(s *ClusterStatus) { s.Members[1].Behind = 1 }, true, now.Add(-stuckAfter - time.Second), "late", "is behind and takes nothing", "1 entry or change"},
		{"it takes over", func(s *ClusterStatus) { s.Members[1].Behind = 7 }, false, now, "late", "takes over", "is being taken over"},
		{"nobody leads", func(s *ClusterStatus) { s.Leader = "" }, true, now, "refused", "nobody leads", "nothing"},
		{"it has just started", func(s *ClusterStatus) { s.Members = nil }, true, time.Time{}, "late", "asks the others", "not known yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := three(), web.Standby{Now: now}
			tc.change(&s)
			place(&v, s, tc.inStep, tc.took)
			if v.Standing != tc.standing || v.Word != tc.word || !strings.Contains(v.Behind, tc.behind) || len(v.Machines) != len(s.Members) {
				t.Errorf("got %s %q, behind %q", v.Standing, v.Word, v.Behind)
			}
		})
	}
}
