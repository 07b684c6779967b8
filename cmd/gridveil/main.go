// Command gridveil runs every role of the mesh, its demonstration and its tools.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run executes the command line and gives the exit code: 0 ok, 1 failed, 2
// usage, 3 degraded.
func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	return report(os.Stderr, ran, err)
}
