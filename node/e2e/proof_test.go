package e2e

import (
	"os"
	"path/filepath"
	"reflect"
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

// evidence takes what the meter reported from the head-end and from the home itself,
// and judges both by the files and the network's rules: they say the same.
func (d *day) evidence() {
	span := []string{"--from", d.since.UTC().Format(time.RFC3339), "--to", time.Now().UTC().Format(time.RFC3339)}
	out := d.t.TempDir()
	judged := map[string]node.JudgedEvidence{}
	for name, point := range map[string][]string{"headend": {d.point[:8]}, "home": nil} {
		file := filepath.Join(out, name+".json")
		cli(d.t, append(append(append([]string{"meter", "evidence"}, point...), span...), "--out", file, "--data", d.path(name))...)
		j := cliJSON[node.JudgedEvidence](d.t, "verify", file, "--network", filepath.Join(d.path("home"), "network.toml"), "--json")
		if len(j.Reports) == 0 || j.Holder == nil || j.Holder.Role != "gateway" || j.Unsigned.UsagePoint != d.point {
			d.t.Errorf("%s: judged %+v, key of %+v", name, j, j.Holder)
			return
		}
		judged[name] = j
	}
	for i, r := range judged["home"].Reports {
		if held := judged["headend"].Reports; i < len(held) && !reflect.DeepEqual(held[i], r) {
			d.t.Errorf("the head-end shows %+v, the home %+v", held[i], r)
		}
	}
}
