// Package yardstick holds tests in which programs of others judge the ledger. It
// is a module of its own, so that the product does not depend on them.
package yardstick
