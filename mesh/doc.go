// Package mesh is the network of gridveil.
package mesh
