package gateway

import (
	"context"
	"sync"

	"gridveil/battery"
	"gridveil/battery/kernel"
)

// priors remembers kernels of unobserved homes: forty homes of one process with
// equal batteries solve one.
var priors struct {
	sync.Mutex
	solved map[priorKey]*kernel.Kernel
}

type priorKey struct {
	plan   battery.Plan
	yearly float64
}

// sharedPrior solves the kernel of an unobserved home, once for equal homes.
func sharedPrior(ctx context.Context, p battery.Plan, yearly float64) (*kernel.Kernel, error) {
	priors.Lock()
	defer priors.Unlock()
	key := priorKey{p, yearly}
	if k, ok := priors.solved[key]; ok {
		return k, nil
	}
	k, err := battery.SolvePrior(ctx, p, yearly)
	if err != nil {
		return nil, err
	}
	if priors.solved == nil {
		priors.solved = make(map[priorKey]*kernel.Kernel)
	}
	priors.solved[key] = k
	return k, nil
}
