// Package probe asks a kernel whether it has everything that Warren's BPF programs use, and tries the parts that a feature test
// cannot show. It has tests only; test/kernel/run.sh runs them on the oldest supported kernel, `go test` on the host's. Needs root.
package probe
