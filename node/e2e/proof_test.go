package e2e

import (
	"os"
	"path/filepath"
	"time"

	"gridveil/node"
)

// proofs prints the month's statements of host and driver, and judges each by its
// file alone.
func (d *day) proofs() {
	for noun, name := range map[string]string{"guest": "home", "wallet": "driver"} {
		text := cli(d.t, noun, "statement", "--month", time.Now().Format("2006-01"), "--signed", "--json", "--data", d.path(name))
		file := filepath.Join(d.t.TempDir(), name+".json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			d.t.Fatal(err)
		}
		j := cliJSON[node.JudgedStatement](d.t, "verify", file, "--json")
		if j.Proved != 1 || j.Unproved != 0 || j.Sessions[0].InMWh == 0 {
			d.t.Errorf("%s: judged %+v", name, j)
		}
	}
}
