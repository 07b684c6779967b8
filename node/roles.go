package node

import (
	"context"
	"fmt"

	"gridveil/node/aggregator"
	"gridveil/node/gateway"
	"gridveil/node/headend"
	"gridveil/node/role"
	"gridveil/node/ssn"
	"gridveil/node/utility"
	"gridveil/node/verifier"
	"gridveil/node/wallet"
)

// Hardware stands in for a house in a demonstration.
type Hardware = gateway.Hardware

// newRole builds the role that the configuration names.
func newRole(env *role.Env, o Options) (role.Role, error) {
	switch env.Config.Role {
	case "gateway":
		var hw Hardware
		if o.Hardware != nil {
			hw = *o.Hardware
		}
		return gateway.New(context.Background(), env, hw)
	case "ssn":
		return ssn.New(env)
	case "headend":
		return headend.New(env)
	case "utility":
		return utility.New(env)
	case "aggregator":
		return aggregator.New(env, o.shards)
	case "verifier":
		return verifier.New(env)
	case "wallet":
		return wallet.New(env)
	}
	return nil, fmt.Errorf("unknown role %q", env.Config.Role)
}
