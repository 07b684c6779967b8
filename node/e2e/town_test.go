package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gridveil/node/identity"
)

// plan is a small town below the anonymity floors, so class lab.
const plan = `root_keys = 3
root_threshold = 2
zones = [{name = "elm", region = 1}, {name = "oak", region = 1}, {name = "mill", region = 1}]

[[operators]]
name = "northgrid"
roles = ["gateway", "ssn", "headend", "utility"]
zones = ["elm", "oak", "mill"]
dso_zones = ["elm", "oak", "mill"]

[[operators]]
name = "southpower"
roles = ["ssn", "utility", "wallet"]
zones = ["elm", "oak", "mill"]

[[operators]]
name = "towngrid"
roles = ["ssn"]
zones = ["elm", "oak", "mill"]

[[operators]]
name = "evagg"
roles = ["aggregator"]

[[operators]]
name = "watchdog"
roles = ["verifier"]

[policy]
homes_enrolled = 1
lab = true
`

// citizen is one node of the town. A founder is certified by the network's
// founders; others join with a code of their operator's first node.
type citizen struct {
	name, role, operator, zone string
	founder                    bool
	web                        string // address of its pages; none if empty
	toml                       string // besides mesh, web and log
}

// town is the network and its processes.
type town struct {
	t       *testing.T
	dir     string
	cast    []citizen
	running map[string]*process
	contact []string // multiaddrs of founders
}

func newTown(t *testing.T, cast []citizen) *town {
	w := &town{t: t, dir: t.TempDir(), cast: cast, running: map[string]*process{}}
	t.Cleanup(func() {
		for _, c := range slices.Backward(w.cast) {
			if p := w.running[c.name]; p != nil && p.cmd != nil {
				p.kill()
			}
		}
		if t.Failed() {
			for _, c := range w.cast {
				if p := w.running[c.name]; p != nil {
					t.Logf("--- %s\n%s", c.name, p.log())
				}
			}
		}
	})
	return w
}

func (w *town) path(name string) string { return filepath.Join(w.dir, name) }

// p is a citizen's process.
func (w *town) p(name string) *process {
	p := w.running[name]
	if p == nil {
		w.t.Fatalf("nobody is called %s", name)
	}
	return p
}

// found makes the network's keys and bundle.
func (w *town) found() { w.foundAs(plan) }

func (w *town) foundAs(plan string) {
	file := w.path("plan.toml")
	if err := os.WriteFile(file, []byte(plan), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cli(w.t, "network", "new", "--plan", file, "--out", w.path("net"))
	cli(w.t, "network", "openers", w.path("net"))
}

// settle prepares and starts everybody: founders first, then who joins by code.
func (w *town) settle() {
	for _, founders := range []bool{true, false} {
		for _, c := range w.cast {
			if c.founder == founders {
				w.prepare(c)
				w.running[c.name].start()
			}
		}
	}
}

// prepare initialises a citizen's directory, writes its configuration as an
// operator would, and enrols it.
func (w *town) prepare(c citizen) {
	dir := w.path(c.name)
	args := []string{"init", "--role", c.role, "--name", c.name, "--data", dir}
	if c.founder {
		args = append(args, "--network", w.path("net"), "--operator", c.operator)
		if c.zone != "" {
			args = append(args, "--zone", c.zone)
		}
	}
	cli(w.t, args...)
	listen := w.configure(c, dir)
	if c.founder {
		id, err := identity.Load(dir, time.Now())
		if err != nil {
			w.t.Fatal(err)
		}
		if listen != "" {
			w.contact = append(w.contact, listen+"/p2p/"+id.Member.Peer.String())
		}
	} else {
		args := []string{"invite", "--role", c.role, "--data", w.path(w.firstOf(c.operator))}
		if c.zone != "" {
			args = append(args, "--zone", c.zone)
		}
		cli(w.t, "join", cli(w.t, args...), "--data", dir)
	}
	cli(w.t, "config", "check", "--data", dir)
	w.running[c.name] = &process{t: w.t, name: c.name, dir: dir}
}

// configure writes gridveil.toml and gives the address that the node listens at.
func (w *town) configure(c citizen, dir string) (listen string) {
	var mesh string
	if c.role != "gateway" && c.role != "wallet" {
		listen = "/ip4/127.0.0.1/tcp/" + freePort(w.t)
		mesh = fmt.Sprintf("listen = [%q]\n", listen)
	}
	if c.founder && len(w.contact) > 0 {
		mesh += fmt.Sprintf("parents = [%s]\n", `"`+strings.Join(w.contact, `", "`)+`"`)
	}
	web := c.web
	if web == "" {
		web = "off"
	}
	toml := fmt.Sprintf("role = %q\nname = %q\n[web]\nlisten = %q\n[log]\nlevel = \"info\"\n[mesh]\n%s%s", c.role, c.name, web, mesh, c.toml)
	if err := os.WriteFile(filepath.Join(dir, "gridveil.toml"), []byte(toml), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return listen
}

// firstOf is the operator's node that certifies its others.
func (w *town) firstOf(operator string) string {
	for _, c := range w.cast {
		if c.operator == operator && c.founder {
			return c.name
		}
	}
	w.t.Fatalf("operator %s has no first node", operator)
	return ""
}

// connected waits until everybody sees whom it needs: a home three substations, a
// wallet those that are not its issuer's, the others each other.
func (w *town) connected() {
	substations, own := 0, map[string]int{}
	for _, c := range w.cast {
		if c.role == "ssn" {
			substations++
			own[c.operator]++
		}
	}
	for _, c := range w.cast {
		eventually(w.t, 30*time.Second, func() string {
			s := w.p(c.name).status()
			want := substations
			switch c.role {
			case "ssn":
				want--
			case "wallet":
				want -= own[c.operator]
			}
			if s.Peers["ssn"] < want {
				return fmt.Sprintf("%s sees %v, want %d substations", c.name, s.Peers, want)
			}
			return ""
		})
	}
}
