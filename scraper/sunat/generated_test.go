//go:build !race

package sunat_test

// generated is how many invented taxpayers the property test reads.
const generated = 10_000
