# Warren's build. `make help` lists what a person types.
SHELL := /bin/bash
export CGO_ENABLED := 0
BIN := bin
# Tests of sheer volume, which say nothing more with the race detector and take long.
RACE_SKIP := ^TestBytesBothWays$$|^TestTwoHundred|^TestTenThousandIdle$$|^TestStreams$$/^slow
PROTOS := api/meshv1/mesh.proto api/cav1/ca.proto api/adminv1/admin.proto

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -ts $$'\t'

.PHONY: build
build: ## build the binaries into bin/
	go build -trimpath -o $(BIN)/ ./cmd/...

# What images are tagged with and binaries in them report: what the chart asks for.
VERSION ?= $(shell sed -n 's/^appVersion: //p' deploy/chart/Chart.yaml)
REGISTRY ?= ghcr.io/warren-mesh
ARCHES ?= amd64,arm64

.PHONY: images
images: ## build the container images as OCI archives in bin/images (ARCHES, REGISTRY, VERSION)
	go run ./hack/images -out $(BIN)/images -arches $(ARCHES) -registry $(REGISTRY) -version $(VERSION)

.PHONY: images-check
images-check: ## fail if building the images again, elsewhere, gives other bytes
	@rm -rf $(BIN)/images-again
	go run ./hack/images -out $(BIN)/images -arches $(ARCHES) -registry $(REGISTRY) -version $(VERSION)
	TMPDIR=$$(mktemp -d) go run ./hack/images -out $(BIN)/images-again -arches $(ARCHES) -registry $(REGISTRY) -version $(VERSION)
	cmp $(BIN)/images/warren-agent.tar $(BIN)/images-again/warren-agent.tar
	cmp $(BIN)/images/warren-controller.tar $(BIN)/images-again/warren-controller.tar
	cmp $(BIN)/images/warren-waypoint.tar $(BIN)/images-again/warren-waypoint.tar
	@rm -rf $(BIN)/images-again

.PHONY: chart-golden
chart-golden: ## accept what the chart renders now, after reading the difference
	go test ./deploy -run TestGolden -update
	git diff --stat -- deploy/testdata/golden

.PHONY: generate
generate: generate-proto generate-bpf ## regenerate committed code (needs clang-19, libbpf-dev and protoc)

.PHONY: generate-proto
generate-proto:
	@mkdir -p $(BIN)/tools
	go build -o $(BIN)/tools/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH="$(CURDIR)/$(BIN)/tools:$$PATH" protoc -I . --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative $(PROTOS)

.PHONY: generate-bpf
generate-bpf:
	go generate ./bpf

.PHONY: demo
demo: build ## bring up a mesh of two nodes on this machine and show it (root)
	hack/demo.sh

.PHONY: demo-down
demo-down: build ## remove every trace of the demo
	bin/agentctl lab down --lab demo

.PHONY: deps
deps: ## install the Debian packages that tests and generation need
	hack/deps.sh

.PHONY: test
test: deps ## everything that proves it, as root; ends with go test's closing lines
	hack/test.sh

.PHONY: e2e
e2e: deps ## the tests on a real Kubernetes of several nodes on this machine (root)
	hack/e2e.sh $(E2E)

.PHONY: conformance
conformance: deps ## the Gateway API's conformance suite on such a Kubernetes; its report goes to docs/conformance (root)
	hack/conformance.sh $(CONFORMANCE)

.PHONY: e2e-binaries
e2e-binaries: ## build that Kubernetes, once, into ~/.cache/warren/e2e (ten minutes)
	hack/e2e-binaries.sh

.PHONY: bench
bench: deps ## measure connections beside bare TCP, nginx, HAProxy and Envoy, under four minutes on an idle machine (root; BENCH)
	go run ./bench/mesh $(BENCH)

.PHONY: bench-full
bench-full: deps ## the same with every scenario, under 25 minutes (root; BENCH)
	go run ./bench/mesh --full --seconds 0.7 $(BENCH)

.PHONY: bench-smoke
bench-smoke: ## the same in its smallest form, under a minute: fails if anything could not be measured (root)
	go run ./bench/mesh --strict --rounds 1 --seconds 0.2 --scenario echo64-c16,rate1000-64,upload-1,connect,cold,http,grpc \
		--only "bare,warren across,warren waypoint,nginx,haproxy" >/dev/null

.PHONY: bench-waypoint
bench-waypoint: ## measure requests and calls through a waypoint, beside direct and Envoy, under three minutes on an idle machine (root)
	go run ./bench/waypoint $(BENCH)

.PHONY: bench-controller
bench-controller: ## measure the controller with 10,000 pods and 1,000 agents, five minutes on an idle machine (BENCH)
	go run ./bench/controller $(BENCH)

.PHONY: microbench
microbench: ## measure decisions, routes, frames and the copy loop, for benchstat (BENCHTIME, COUNT)
	go test -run '^$$' -bench . -benchmem -benchtime $(or $(BENCHTIME),100ms) -count $(or $(COUNT),1) \
		./policy ./route ./ztunnel ./ztunnel/hbone

.PHONY: bench-hooks
bench-hooks: ## measure the kernel's hooks by its own statistics, for benchstat, in half a minute (root; BENCHTIME, COUNT)
	go test -run '^$$' -bench Hooks -benchtime $(or $(BENCHTIME),10000x) -count $(or $(COUNT),1) ./agent/podnet

.PHONY: lint
lint: ## gofmt, vet, staticcheck, known vulnerabilities
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt the files above" >&2; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go tool govulncheck $(if $(VULNDB),-db $(VULNDB)) ./...

.PHONY: generate-check
generate-check: generate ## fail if committed generated code is not what its sources give
	git diff --exit-code -- '*.pb.go' '*_bpfel.go' '*_bpfel.o'

.PHONY: fuzz
fuzz: ## run every fuzz target on FUZZTIME inputs (default 10000x)
	hack/fuzz.sh $(or $(FUZZTIME),10000x)

.PHONY: race
race: ## the tests with the race detector, agents and controller included; agents carry all that `go test` has the kernel connect
	WARREN_CARRY_SAME_NODE=1 CGO_ENABLED=1 go test -race -timeout 25m -skip '$(RACE_SKIP)' $(or $(RACE),$(shell go list ./... | grep -v /bench/waypoint$$))

.PHONY: kernel-test
kernel-test: ## the capture tests on Debian's 6.1 kernel, under QEMU
	test/kernel/run.sh ./test/kernel/probe
	test/kernel/run.sh ./bpf
	test/kernel/run.sh ./agent/podnet

# One test of the whole that needs nothing but the binaries, of each way to carry a connection: by HBONE, plaintext, direct.
MESH_ON_KERNEL := ^TestUnenrolledClientsAreServedUnderPermissiveAndRefusedUnderStrict$$|^TestDirectConnectionsOutlastTheirAgent$$

.PHONY: kernel-test-arm64
kernel-test-arm64: ## the same and a whole mesh on Debian's 6.1 kernel for arm64, emulated: ten minutes
	ARCH=arm64 test/kernel/run.sh ./test/kernel/probe
	ARCH=arm64 test/kernel/run.sh ./bpf
	ARCH=arm64 test/kernel/run.sh ./agent/podnet
	ARCH=arm64 COMMANDS="./cmd/agent ./cmd/controller ./cmd/sample" test/kernel/run.sh ./test/mesh -test.run='$(MESH_ON_KERNEL)'
