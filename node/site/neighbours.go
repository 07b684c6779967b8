package site

import (
	"cmp"
	"slices"

	"gridveil/mesh"
	"gridveil/mesh/member"
	"gridveil/node/role"
	"gridveil/node/web"
)

// kindOf is the map's word for a role.
func kindOf(r member.Role) string {
	if r == member.RoleGateway {
		return "home"
	}
	return r.String()
}

// maxLeaves bounds how many homes a substation's map draws.
const maxLeaves = 48

// neighbours is the map around this node: itself, whom it is connected to, and
// the operators that the directory names.
func neighbours(env *role.Env) ([]web.Node, []web.Edge) {
	self := env.Host.Self()
	own := web.Node{ID: "self", Kind: kindOf(self.Role), Name: env.Config.Name, Label: "this node", Zone: self.Zone, State: "idle", Text: Is(kindOf(self.Role))}
	nodes := []web.Node{own}
	seen := map[member.Key]bool{self.Key: true}
	var edges []web.Edge
	leaves := 0
	peers := env.Host.Peers()
	slices.SortFunc(peers, func(a, b mesh.Member) int { return slices.Compare(a.Key[:], b.Key[:]) })
	for _, p := range peers {
		if p.Role.Leaf() {
			if leaves++; leaves > maxLeaves {
				continue
			}
		}
		seen[p.Key] = true
		n := neighbour(p)
		nodes = append(nodes, n)
		edges = append(edges, web.Edge{ID: n.ID, From: "self", To: n.ID, Kind: "report", Level: 1})
	}
	for _, r := range []member.Role{member.RoleSSN, member.RoleHeadend, member.RoleUtility, member.RoleAggregator, member.RoleVerifier} {
		for _, h := range env.Dir.All(r, "") {
			if !seen[h.Member.Key] {
				seen[h.Member.Key] = true
				n := neighbour(h.Member)
				n.Text = "Known from the directory; this node is not connected to it and need not be."
				nodes = append(nodes, n)
			}
		}
	}
	place(nodes)
	return nodes, edges
}

func neighbour(m mesh.Member) web.Node {
	kind := kindOf(m.Role)
	n := web.Node{ID: kind + "-" + ShortID(m.Key[:]), Kind: kind, Name: m.Operator, Zone: m.Zone, State: "idle", Text: "Connected."}
	switch {
	case m.Role == member.RoleSSN:
		n.Name = m.Zone
	case m.Role.Leaf():
		n.Name = kind + " " + ShortID(m.Key[:])
	}
	if !m.Role.Leaf() {
		n.Label = n.Name
	}
	return n
}

// tiers are the rows of the map from the top, as shares of its height.
var tiers = map[string]float64{"utility": .14, "aggregator": .14, "verifier": .14, "headend": .36, "ssn": .6, "home": .86, "wallet": .86}

// place puts nodes on rows by their kind, spread evenly.
func place(nodes []web.Node) {
	rows := map[float64][]int{}
	for i, n := range nodes {
		rows[tiers[n.Kind]] = append(rows[tiers[n.Kind]], i)
	}
	for y, row := range rows {
		slices.SortStableFunc(row, func(a, b int) int { return cmp.Compare(nodes[a].Kind+nodes[a].Name, nodes[b].Kind+nodes[b].Name) })
		for k, i := range row {
			x := (float64(k) + .5) / float64(len(row))
			nodes[i].Wide = web.Place{X: web.WideWidth * x, Y: web.WideHeight * y}
			nodes[i].Tall = web.Place{X: web.TallWidth * x, Y: web.TallHeight*y + 24*float64(k%2)} // names of a narrow row do not meet
		}
	}
}
