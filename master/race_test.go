//go:build race

package master

// raced: the race detector watches, and allocates for itself.
const raced = true
