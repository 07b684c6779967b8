package config

import (
	"bytes"
	"fmt"
	"text/template"
)

// Template is the file that `gridveil init` writes for a role: the keys that
// its operator is likely to change, each with its comment.
func Template(role, name string) []byte {
	var b bytes.Buffer
	if err := templates.ExecuteTemplate(&b, "file", map[string]string{"Role": role, "Name": fmt.Sprintf("%q", name)}); err != nil {
		panic(err) // the templates are constants of this package
	}
	return b.Bytes()
}

var templates = template.Must(template.New("").Parse(`
{{- define "file" -}}
# gridveil configuration. Written once by "gridveil init"; it is yours from now on.
# All keys: doc/config.md. Check a change with: gridveil config check
role = "{{.Role}}"
name = {{.Name}} # shown on this node's own pages only
{{if eq .Role "gateway"}}
[meter]
source = "sim"                # p1: a P1 port; replay: a CSV file; sim: a simulated household, said so on screen
# address = "tcp://192.0.2.10:2001"
read_period = "15m"
report_period = "1h"

[battery]
capacity_wh = 0               # usable capacity; 0: no battery, so the load is not masked
power_w = 3000
# driver = "sunspec"          # an inverter that speaks SunSpec over Modbus TCP
# address = "tcp://192.0.2.20:502"

[evse]
# listen = "0.0.0.0:8887"     # wallboxes connect to ws://<this address>/ocpp/<station>

[hosting]
enabled = false               # true lets guests charge at the prices below (millionths per kWh)
p_res = 180000
p_grid = 320000
{{else if eq .Role "wallet"}}
[wallet]
listen = "127.0.0.1:8470"     # the wallet's own page
{{else if eq .Role "aggregator"}}
[mesh]
listen = ["/ip4/0.0.0.0/tcp/4100"]

[aggregator]
fee_per_kwh = 15000
{{else}}
[mesh]
listen = ["/ip4/0.0.0.0/tcp/4100"]
{{end}}
[web]
listen = "127.0.0.1:7080"
{{end}}`))
