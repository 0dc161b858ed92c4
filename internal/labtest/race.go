//go:build race

package labtest

// RaceEnabled says that the tests and all that they start are built with the race detector, which takes memory of its own.
const RaceEnabled = true
