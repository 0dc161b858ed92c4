# Warren's build. `make help` lists what a person types.
SHELL := /bin/bash
export CGO_ENABLED := 0
BIN := bin
PROTOS := api/meshv1/mesh.proto api/cav1/ca.proto api/adminv1/admin.proto

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -ts $$'\t'

.PHONY: build
build: ## build the binaries into bin/
	go build -trimpath -o $(BIN)/ ./cmd/...

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
