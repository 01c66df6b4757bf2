//go:build race

package sunat_test

// generated is less under the race detector, which makes the parser ten times slower and
// finds nothing in a function without goroutines. `make test` runs both.
const generated = 1_000
