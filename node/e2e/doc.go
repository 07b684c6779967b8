// Package e2e holds only tests: a network of real processes. The binary is built
// once; a network is founded with its own commands; one process per role runs on
// loopback, enrolled by one-time codes; readings become bills and a guest's car
// becomes a settled session while each process in turn is killed with SIGKILL
// and started again.
//
// Everything runs on the wall clock, at the shortest periods that the product
// allows: nothing is accelerated, nothing simulated but meter, house and car.
// With -short only start-up and one reading are tested.
package e2e
